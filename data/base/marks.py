"""Albums drawn to teach comparing, and what is true of each of their visual tokens: dense labels, as the tower had for each patch.

An answer supervises a handful of words. A label on every visual token that shows an object supervises looking itself: which object it
is, which picture it is in, how its place, size and color compare with the picture before and with the first one. Pictures of one album
are drawn one by one: an object keeps its place, is placed anew or strays a little either way; none travels.
"""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
from albums import Album, Picture, Thing

from pllava.stages.render.scene import COLORS, SHAPES, Look, random_names

CELLS = 9  # a picture's visual tokens: the 3 x 3 places
LONGEST = 8
IGNORE = -100
MARKS = {  # name -> number of classes
    "color": len(COLORS),
    "shape": len(SHAPES),
    "picture": LONGEST,  # which picture of the album
    "across": 3,  # left of, level with or right of where it was first seen
    "along": 3,  # above, level with or below
    "step across": 3,  # the same against the picture before
    "step along": 3,
    "new": 2,  # it was not in the picture before
    "times": 4,  # how many times it has come in so far, 1-4
    "first seen": LONGEST,
    "size": 3,  # smaller than, as large as or larger than first seen
    "recolored": 2,
}
NEAR = 0.2  # objects keep this far apart, in units of the picture's side


def random_mix(rng: random.Random, size: int) -> Album:
    """One to four objects; about each, place, presence, size and color follow rules of their own."""
    names = random_names(rng, rng.choices((1, 2, 3, 4), (1, 3, 4, 1))[0] + 1)
    spare_color = names.pop()[0]
    album, taken = Album("mix", []), []
    for color, shape in names:
        path = _free_path(rng, size, taken)
        if path is None:
            continue
        taken.append(path)
        thing = Thing(color, shape, [_cell(x, y) for x, y in path], _presence(rng, size), _sizes(rng, size), [color] * size)
        if rng.random() < 0.15 and size > 1 and (spare_color, shape) not in names:
            cut = rng.randint(1, size - 1)
            thing.colors = [color] * cut + [spare_color] * (size - cut)
        album.things.append(thing)
    for index in range(size):
        items, looks = [], []
        for thing, path in zip(album.things, taken, strict=True):
            if thing.shown[index]:
                x, y = path[index]
                items.append((thing.colors[index], thing.shape, thing.places[index]))
                looks.append(Look(thing.colors[index], thing.shape, x, y, thing.sizes[index]))
        album.pictures.append(Picture(tuple(items), tuple(looks)))
    return album


def _cell(x: float, y: float) -> int:
    return int(y * 3) * 3 + int(x * 3)


def _spot(rng: random.Random) -> tuple[float, float]:
    return rng.uniform(0.13, 0.87), rng.uniform(0.13, 0.87)


def _path(rng: random.Random, size: int) -> list[tuple[float, float]]:
    kind = rng.choices(("still", "once", "corner", "restless", "stray"), (30, 20, 10, 15, 25))[0]
    x, y = _spot(rng)
    path = [(x, y)]
    cuts = sorted(rng.sample(range(1, size), min(size - 1, 1 if kind == "once" else 2)))
    flat = rng.random() < 0.5
    for index in range(1, size):
        if kind == "restless" and rng.random() < 0.5:
            x, y = _spot(rng)
        elif kind == "stray":
            step = rng.uniform(0.06, 0.2)
            dx, dy = rng.choice(((1, 0), (-1, 0), (0, 1), (0, -1), (0, 0)))
            x, y = (value if 0.13 < value < 0.87 else old for value, old in ((x + dx * step, x), (y + dy * step, y)))
        elif kind == "once" and index in cuts:
            x, y = _spot(rng)
        elif kind == "corner" and index in cuts:
            there = _spot(rng)
            x, y = (there[0], y) if flat else (x, there[1])
            flat = not flat
        path.append((x + rng.uniform(-0.01, 0.01), y + rng.uniform(-0.01, 0.01)))
    return path


def _free_path(rng: random.Random, size: int, taken: list[list[tuple[float, float]]]) -> list[tuple[float, float]] | None:
    for _ in range(30):
        path = _path(rng, size)
        if all(max(abs(a - x), abs(b - y)) > NEAR for other in taken for (a, b), (x, y) in zip(other, path, strict=True)):
            return path
    return None


def _presence(rng: random.Random, size: int) -> list[bool]:
    kind = rng.choices(("all", "until", "from", "gaps"), (45, 15, 15, 25))[0]
    if kind == "gaps":
        edges = sorted(rng.sample(range(1, size), 2 * rng.randint(0, min(3, (size - 1) // 2))))
        return [sum(index >= edge for edge in edges) % 2 == 0 for index in range(size)]
    cut = rng.randint(1, size - 1)
    return [kind == "all" or (index < cut) == (kind == "until") for index in range(size)]


def _sizes(rng: random.Random, size: int) -> list[float]:
    kind = rng.choices(("same", "larger", "smaller"), (70, 15, 15))[0]
    if kind == "same":
        return [rng.uniform(0.1, 0.13)] * size
    small, large = rng.uniform(0.065, 0.085), rng.uniform(0.145, 0.175)
    sizes = [small, *sorted(rng.uniform(small, large) for _ in range(size - 2)), large]
    return sizes if kind == "larger" else sizes[::-1]


def marks(album: Album) -> np.ndarray:
    """[T, 9, len(MARKS)] class of each visual token, IGNORE where there is nothing to say or it is not clear."""
    found = np.full((len(album.pictures), CELLS, len(MARKS)), IGNORE, dtype=np.int64)
    column = {name: index for index, name in enumerate(MARKS)}
    seen: dict[int, list[tuple[int, Look]]] = {}
    for index, picture in enumerate(album.pictures):
        found[index, :, column["picture"]] = index
        shown = [number for number, thing in enumerate(album.things) if thing.shown[index]]
        cells = [_cell(look.x, look.y) for look in picture.looks]
        for number, look, cell in zip(shown, picture.looks, cells, strict=True):
            history = seen.setdefault(number, [])
            history.append((index, look))
            if cells.count(cell) > 1:
                continue
            (first, opening), runs = history[0], 1 + sum(b - a > 1 for (a, _), (b, _) in pairwise(history))
            before = history[-2][1] if len(history) > 1 and history[-2][0] == index - 1 else None
            values = {
                "color": list(COLORS).index(look.color),
                "shape": SHAPES.index(look.shape),
                "across": _side(look.x - opening.x, 0.06, 0.12),
                "along": _side(look.y - opening.y, 0.06, 0.12),
                "new": int(before is None),
                "times": min(runs, 4) - 1,
                "first seen": first,
                "size": _side(np.log(look.radius / opening.radius), 0.05, 0.15),
                "recolored": int(look.color != opening.color),
            }
            if before is not None:
                values |= {"step across": _side(look.x - before.x, 0.025, 0.05), "step along": _side(look.y - before.y, 0.025, 0.05)}
            for name, value in values.items():
                found[index, cell, column[name]] = value
    return found


def _side(difference: float, level: float, clear: float) -> int:
    """0 below, 1 level, 2 above; IGNORE in between."""
    if abs(difference) <= level:
        return 1
    return IGNORE if abs(difference) < clear else (2 if difference > 0 else 0)
