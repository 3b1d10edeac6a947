"""A rendered clip as a script: its objects and what each of them does. Questions are answered from the script, not from the pixels.

Times run from 0 (first frame) to 1 (last frame). Every clip has one theme, so that its questions have one right answer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

from pllava.stages.render.scene import COLORS, SHAPES, Look, draw, place_center, random_ground, random_names

THEMES = ("motion", "turn", "blink", "change", "push", "order", "timing")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
CHANGES = ("changes color", "grows", "shrinks", "blinks")
PHASES = ("at the beginning", "in the middle", "at the end")
PHASE_TIMES = {"at the beginning": (0.13, 0.2), "in the middle": (0.46, 0.54), "at the end": (0.8, 0.87)}


@dataclass
class Actor:
    """One object and what it does. Its positions are centers of the 3 x 3 grid plus a jitter, in units of the picture's side."""

    color: str
    shape: str
    path: list[tuple[float, float, float]]  # (time, x, y); the object moves linearly between these points
    blinks: int = 0
    change: str | None = None
    new_color: str | None = None
    appears: float = 0.0
    disappears: float = 1.1
    moves: tuple[str, ...] = ()  # directions, in order of time
    phase: str | None = None  # one of PHASES: when the object disappears
    radius: float = 0.12

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    def look(self, time: float) -> Look:
        """The object as it looks at a time from 0 to 1."""
        x, y = (
            np.interp(time, [p[0] for p in self.path], [p[1] for p in self.path]),
            np.interp(time, [p[0] for p in self.path], [p[2] for p in self.path]),
        )
        scale = {"grows": 0.65 + 0.75 * time, "shrinks": 1.4 - 0.75 * time}.get(self.change or "", 1.0)
        color = self.new_color if self.new_color and time > 0.5 else self.color
        visible = self.appears <= time < self.disappears
        if self.blinks:  # one dark window a blink; dark and lit windows are equally long
            cycle = time * (2 * self.blinks + 1)
            visible = visible and int(min(cycle, 2 * self.blinks)) % 2 == 0
        return Look(color, self.shape, float(x), float(y), self.radius * scale, visible)


@dataclass
class Clip:
    """The script of one clip."""

    theme: str
    actors: list[Actor]
    ground: tuple[int, int, int]
    pushed: int | None = None  # index of the actor that actor 0 pushes
    order: list[int] = field(default_factory=list)  # indexes of the actors, by time of appearance

    def frames(self, num_frames: int, size: int) -> np.ndarray:
        """The pixels, uint8 [T, H, W, 3] with H = W = size."""
        times = np.linspace(0, 1, num_frames)
        return np.stack([draw([actor.look(float(t)) for actor in self.actors], size, self.ground) for t in times])


def random_clip(rng: random.Random, theme: str | None = None) -> Clip:
    """A random clip. Without a theme, all themes are equally likely."""
    theme = theme or rng.choice(THEMES)
    clip = Clip(theme, [], random_ground(rng))
    BUILDERS[theme](rng, clip)
    return clip


def _still(rng: random.Random, name: tuple[str, str], cell: int) -> Actor:
    """An object near the centre of a cell 0..8 of the grid. It stays there unless the caller gives it a path."""
    x, y = place_center(cell)
    x, y = x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.03, 0.03)
    return Actor(*name, path=[(0.0, x, y)], radius=rng.uniform(0.105, 0.125))


def _motion(rng: random.Random, clip: Clip) -> None:
    """Two or three objects, each in its own row or column; any number of them moves. Mostly three, so that their number tells little."""
    count = rng.choice((2, 3, 3, 3))
    movers = rng.randint(0, count)
    names = random_names(rng, count)
    lanes = rng.sample(range(3), 3)
    horizontal = rng.random() < 0.5
    directions = ["left", "right"] if horizontal else ["up", "down"]
    free: list[int] = []
    for index, name in enumerate(names):
        if index < movers:
            lane, direction = lanes[index], rng.choice(directions)
            step = DIRECTIONS[direction][0] + DIRECTIONS[direction][1]
            start, end = (0, 2) if step > 0 else (2, 0)
            cells = [(lane * 3 + s if horizontal else s * 3 + lane) for s in (start, end)]
            actor = _still(rng, name, cells[0])
            x, y = place_center(cells[1])
            drift = rng.uniform(-0.03, 0.03)
            _, x0, y0 = actor.path[0]
            actor.path = [(0.0, x0, y0), (1.0, x + drift, y0) if horizontal else (1.0, x0, y + drift)]
            actor.moves = (direction,)
        else:
            if not free:
                free = [(lane * 3 + s if horizontal else s * 3 + lane) for lane in lanes[movers:] for s in range(3)]
                rng.shuffle(free)
            actor = _still(rng, name, free.pop())
        clip.actors.append(actor)
    rng.shuffle(clip.actors)


def _turn(rng: random.Random, clip: Clip) -> None:
    """One object moves two cells in one direction, then two cells at a right angle. The others stand outside of its path."""
    names = random_names(rng, rng.randint(1, 2))
    way_x, way_y = rng.choice(["left", "right"]), rng.choice(["up", "down"])
    x_first = rng.random() < 0.5
    column = (2, 0) if way_x == "left" else (0, 2)
    row = (2, 0) if way_y == "up" else (0, 2)
    corner = (column[1], row[0]) if x_first else (column[0], row[1])
    stops = [(column[0], row[0]), corner, (column[1], row[1])]
    jitter_x, jitter_y = rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03)
    mover = _still(rng, names[0], 0)
    mover.path = [(t, (c + 0.5) / 3 + jitter_x, (r + 0.5) / 3 + jitter_y) for t, (c, r) in zip((0.0, 0.5, 1.0), stops, strict=True)]
    mover.moves = (way_x, way_y) if x_first else (way_y, way_x)
    far_corner = (column[0] + column[1] - corner[0], row[0] + row[1] - corner[1])
    free = [4, far_corner[1] * 3 + far_corner[0]]
    clip.actors = [mover] + [_still(rng, name, cell) for name, cell in zip(names[1:], free, strict=False)]
    rng.shuffle(clip.actors)


def _blink(rng: random.Random, clip: Clip) -> None:
    """One to three objects, each of which blinks zero to three times."""
    names = random_names(rng, rng.randint(1, 3))
    cells = rng.sample(range(9), len(names))
    for name, cell in zip(names, cells, strict=True):
        actor = _still(rng, name, cell)
        actor.blinks = rng.randint(0, 3)
        clip.actors.append(actor)


def _change(rng: random.Random, clip: Clip) -> None:
    """Two or three objects of different shapes; the first two drawn change."""
    shapes = rng.sample(SHAPES, rng.randint(2, 3))
    colors = rng.sample(list(COLORS), len(shapes) + 2)
    cells = rng.sample(range(9), len(shapes))
    for index, shape in enumerate(shapes):
        actor = _still(rng, (colors[index], shape), cells[index])
        if index < 2:
            actor.change = rng.choice(CHANGES)
            if actor.change == "changes color":
                actor.new_color = colors[len(shapes) + index]
            elif actor.change == "blinks":
                actor.blinks = rng.randint(1, 3)
        clip.actors.append(actor)
    rng.shuffle(clip.actors)


def _push(rng: random.Random, clip: Clip) -> None:
    """The first object runs into the second and pushes it to the far side. The third stands beside their lane."""
    names = random_names(rng, 3)
    direction = rng.choice(list(DIRECTIONS))
    dx, dy = DIRECTIONS[direction]
    lane = rng.randrange(3)
    along = [0, 1, 2] if dx + dy > 0 else [2, 1, 0]
    cells = [(lane * 3 + s if dx else s * 3 + lane) for s in along]
    free = [cell for cell in range(9) if cell not in cells]
    mover, target = _still(rng, names[0], cells[0]), _still(rng, names[1], cells[1])
    for actor in (mover, target):  # without jitter across the lane, so that they meet
        _, x, y = actor.path[0]
        lane_x, lane_y = place_center(cells[0])
        actor.path = [(0.0, x if dx else lane_x, lane_y if dx else y)]
    _, mx, my = mover.path[0]
    _, tx, ty = target.path[0]
    gap = mover.radius + target.radius
    touch_x, touch_y = tx - dx * gap, ty - dy * gap
    end_x, end_y = place_center(cells[2])
    end = (end_x, ty) if dx else (tx, end_y)
    mover.path = [(0.0, mx, my), (0.45, touch_x, touch_y), (1.0, end[0] - dx * gap, end[1] - dy * gap)]
    target.path = [(0.0, tx, ty), (0.45, tx, ty), (1.0, *end)]
    mover.moves = target.moves = (direction,)
    clip.actors = [mover, target, _still(rng, names[2], rng.sample(free, 1)[0])]
    clip.pushed = 1


def _order(rng: random.Random, clip: Clip) -> None:
    """Three objects appear one after the other and stay."""
    names, cells = random_names(rng, 3), rng.sample(range(9), 3)
    for rank, (name, cell) in enumerate(zip(names, cells, strict=True)):
        actor = _still(rng, name, cell)
        actor.appears = (0.0, 0.34, 0.68)[rank] + (rng.uniform(-0.04, 0.04) if rank else 0)
        clip.actors.append(actor)
    rng.shuffle(clip.actors)
    clip.order = sorted(range(3), key=lambda index: clip.actors[index].appears)


def _timing(rng: random.Random, clip: Clip) -> None:
    """Two objects disappear, each at the beginning, in the middle or at the end; a third, if there is one, stays."""
    names = random_names(rng, rng.randint(2, 3))
    cells = rng.sample(range(9), len(names))
    for index, (name, cell) in enumerate(zip(names, cells, strict=True)):
        actor = _still(rng, name, cell)
        if index < 2:
            actor.phase = rng.choice(PHASES)
            actor.disappears = rng.uniform(*PHASE_TIMES[actor.phase])
        clip.actors.append(actor)
    rng.shuffle(clip.actors)


BUILDERS = {"motion": _motion, "turn": _turn, "blink": _blink, "change": _change, "push": _push, "order": _order, "timing": _timing}
