"""A rendered clip as a script: which objects there are and what each does, with the truth kept beside the pixels.

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
    """One object and what it does. Positions are places of the 3 x 3 grid plus a jitter."""

    color: str
    shape: str
    path: list[tuple[float, float, float]]  # (time, x, y), linear in between
    blinks: int = 0
    change: str | None = None
    new_color: str | None = None
    appears: float = 0.0
    disappears: float = 1.1
    moves: tuple[str, ...] = ()  # directions, in order
    phase: str | None = None  # when it appears or disappears
    radius: float = 0.12

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    def look(self, time: float) -> Look:
        x, y = (
            np.interp(time, [p[0] for p in self.path], [p[1] for p in self.path]),
            np.interp(time, [p[0] for p in self.path], [p[2] for p in self.path]),
        )
        scale = {"grows": 0.65 + 0.75 * time, "shrinks": 1.4 - 0.75 * time}.get(self.change or "", 1.0)
        color = self.new_color if self.new_color and time > 0.5 else self.color
        visible = self.appears <= time < self.disappears
        if self.blinks:  # as many dark windows as blinks, spread evenly; each as long as the light between
            cycle = time * (2 * self.blinks + 1)
            visible = visible and int(min(cycle, 2 * self.blinks)) % 2 == 0
        return Look(color, self.shape, float(x), float(y), self.radius * scale, visible)


@dataclass
class Clip:
    theme: str
    actors: list[Actor]
    ground: tuple[int, int, int]
    pushed: int | None = None  # index of the actor that actor 0 pushes
    order: list[int] = field(default_factory=list)  # actors by time of appearance

    def frames(self, num_frames: int, size: int) -> np.ndarray:
        """uint8 [T, H, W, 3]."""
        times = np.linspace(0, 1, num_frames)
        return np.stack([draw([actor.look(float(t)) for actor in self.actors], size, self.ground) for t in times])


def random_clip(rng: random.Random, theme: str | None = None) -> Clip:
    """Draw a clip. With no theme given all themes are as likely."""
    theme = theme or rng.choice(THEMES)
    clip = Clip(theme, [], random_ground(rng))
    BUILDERS[theme](rng, clip)
    return clip


def _still(rng: random.Random, name: tuple[str, str], place: int) -> Actor:
    x, y = place_center(place)
    x, y = x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.03, 0.03)
    return Actor(*name, path=[(0.0, x, y)], radius=rng.uniform(0.105, 0.125))


def _motion(rng: random.Random, clip: Clip) -> None:
    """Two or three objects, each in a row or column of its own; any of them moves. Mostly three, so that their number tells little."""
    count = rng.choice((2, 3, 3, 3))
    movers = rng.randint(0, count)
    names = random_names(rng, count)
    lanes = rng.sample(range(3), 3)
    horizontal = rng.random() < 0.5
    ways = ["left", "right"] if horizontal else ["up", "down"]
    free: list[int] = []
    for index, name in enumerate(names):
        if index < movers:
            lane, way = lanes[index], rng.choice(ways)
            step = DIRECTIONS[way][0] + DIRECTIONS[way][1]
            start, end = (0, 2) if step > 0 else (2, 0)
            cells = [(lane * 3 + s if horizontal else s * 3 + lane) for s in (start, end)]
            actor = _still(rng, name, cells[0])
            x, y = place_center(cells[1])
            drift = rng.uniform(-0.03, 0.03)
            _, x0, y0 = actor.path[0]
            actor.path = [(0.0, x0, y0), (1.0, x + drift, y0) if horizontal else (1.0, x0, y + drift)]
            actor.moves = (way,)
        else:
            if not free:
                free = [(lane * 3 + s if horizontal else s * 3 + lane) for lane in lanes[movers:] for s in range(3)]
                rng.shuffle(free)
            actor = _still(rng, name, free.pop())
        clip.actors.append(actor)
    rng.shuffle(clip.actors)


def _turn(rng: random.Random, clip: Clip) -> None:
    """One object goes two places one way, then two the other; the others stand where it does not pass."""
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
    clip.actors = [mover] + [_still(rng, name, place) for name, place in zip(names[1:], free, strict=False)]
    rng.shuffle(clip.actors)


def _blink(rng: random.Random, clip: Clip) -> None:
    """Some objects blink one to three times; others stay lit."""
    names = random_names(rng, rng.randint(1, 3))
    places = rng.sample(range(9), len(names))
    for name, place in zip(names, places, strict=True):
        actor = _still(rng, name, place)
        actor.blinks = rng.randint(0, 3)
        clip.actors.append(actor)


def _change(rng: random.Random, clip: Clip) -> None:
    """Every object has a shape of its own; one or two of them change."""
    shapes = rng.sample(SHAPES, rng.randint(2, 3))
    colors = rng.sample(list(COLORS), len(shapes) + 2)
    places = rng.sample(range(9), len(shapes))
    for index, shape in enumerate(shapes):
        actor = _still(rng, (colors[index], shape), places[index])
        if index < 2:
            actor.change = rng.choice(CHANGES)
            if actor.change == "changes color":
                actor.new_color = colors[len(shapes) + index]
            elif actor.change == "blinks":
                actor.blinks = rng.randint(1, 3)
        clip.actors.append(actor)
    rng.shuffle(clip.actors)


def _push(rng: random.Random, clip: Clip) -> None:
    """The first object runs into one of the others, which is carried to the far side."""
    names = random_names(rng, 3)
    way = rng.choice(list(DIRECTIONS))
    dx, dy = DIRECTIONS[way]
    lane = rng.randrange(3)
    along = [0, 1, 2] if dx + dy > 0 else [2, 1, 0]
    cells = [(lane * 3 + s if dx else s * 3 + lane) for s in along]
    others = [place for place in range(9) if place not in cells]
    mover, target = _still(rng, names[0], cells[0]), _still(rng, names[1], cells[1])
    for actor in (mover, target):  # on one line
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
    mover.moves = target.moves = (way,)
    clip.actors = [mover, target] + [_still(rng, name, place) for name, place in zip(names[2:], rng.sample(others, 1), strict=True)]
    clip.pushed = 1


def _order(rng: random.Random, clip: Clip) -> None:
    """Three objects appear one after the other and stay."""
    names, places = random_names(rng, 3), rng.sample(range(9), 3)
    for rank, (name, place) in enumerate(zip(names, places, strict=True)):
        actor = _still(rng, name, place)
        actor.appears = (0.0, 0.34, 0.68)[rank] + (rng.uniform(-0.04, 0.04) if rank else 0)
        clip.actors.append(actor)
    rng.shuffle(clip.actors)
    clip.order = sorted(range(3), key=lambda index: clip.actors[index].appears)


def _timing(rng: random.Random, clip: Clip) -> None:
    """One or two objects disappear at the beginning, in the middle or at the end; the others stay."""
    names = random_names(rng, rng.randint(2, 3))
    places = rng.sample(range(9), len(names))
    for index, (name, place) in enumerate(zip(names, places, strict=True)):
        actor = _still(rng, name, place)
        if index < 2:
            actor.phase = rng.choice(PHASES)
            actor.disappears = rng.uniform(*PHASE_TIMES[actor.phase])
        clip.actors.append(actor)
    rng.shuffle(clip.actors)


BUILDERS = {"motion": _motion, "turn": _turn, "blink": _blink, "change": _change, "push": _push, "order": _order, "timing": _timing}
