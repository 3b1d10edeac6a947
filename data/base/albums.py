"""Albums in which something differs from picture to picture: a place, a presence or a look. For comparing pictures, not for motion.

Every picture shows each object at one place of the 3 x 3 grid; between two pictures an object is placed anew, it never travels.
Objects, changes and answers are drawn so that no answer is likelier than another of its kind.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
from stills import COUNTS, NAMES, ORDINALS, Still, some

from pllava.data.rendered.questions import Question
from pllava.data.rendered.scene import COLORS, PLACES, SHAPES, Look, draw, place_center, random_ground, random_names

WAYS = ("left", "right", "up", "down")
ASPECTS = ("its color", "its size", "its place", "nothing")


@dataclass(frozen=True)
class Picture(Still):
    """A still whose objects' positions and radii are given, not drawn when rendered."""

    looks: tuple[Look, ...] = ()

    def render(self, rng: random.Random, size: int) -> tuple[np.ndarray, list[Look]]:
        return draw(list(self.looks), size, random_ground(rng)), list(self.looks)


@dataclass
class Thing:
    """One object over the pictures of an album."""

    color: str
    shape: str
    places: list[int]
    shown: list[bool]
    sizes: list[float]
    colors: list[str]
    aspect: str = "nothing"  # what differs about it
    gaps: int = 0  # times it is gone
    offset: tuple[float, float] = (0.0, 0.0)

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def moves(self) -> bool:
        return len(set(self.places)) > 1


@dataclass
class Album:
    kind: str
    things: list[Thing]
    pictures: list[Picture] = field(default_factory=list)


def random_changes(rng: random.Random, size: int = 8) -> Album:
    kind = rng.choice(("places", "places", "presence", "look", "entries"))
    album = Album(kind, {"places": _places, "presence": _presence, "look": _look, "entries": _entries}[kind](rng, size))
    for index in range(size):
        items, looks = [], []
        for thing in album.things:
            if not thing.shown[index]:
                continue
            x, y = place_center(thing.places[index])
            x, y = x + thing.offset[0] + rng.uniform(-0.03, 0.03), y + thing.offset[1] + rng.uniform(-0.03, 0.03)
            items.append((thing.colors[index], thing.shape, thing.places[index]))
            looks.append(Look(thing.colors[index], thing.shape, x, y, thing.sizes[index]))
        album.pictures.append(Picture(tuple(items), tuple(looks)))
    return album


def _thing(rng: random.Random, name: tuple[str, str], place: int, size: int) -> Thing:
    radius = rng.uniform(0.09, 0.135)
    offset = (rng.uniform(-0.07, 0.07), rng.uniform(-0.07, 0.07))
    return Thing(*name, [place] * size, [True] * size, [radius] * size, [name[0]] * size, offset=offset)


def _places(rng: random.Random, size: int) -> list[Thing]:
    """One to four objects; none to three of them are placed anew: once, twice or in every picture."""
    count = rng.randint(1, 4)
    movers = rng.randint(0, min(3, count))
    names, spots = random_names(rng, count), rng.sample(range(9), count)
    things = [_thing(rng, name, spot, size) for name, spot in zip(names, spots, strict=True)]
    for thing in things[:movers]:
        others = [other for other in things if other is not thing]
        while not thing.moves or any(thing.places[i] == other.places[i] for other in others for i in range(size)):
            thing.places = _journey(rng, spots[things.index(thing)], size)
    rng.shuffle(things)
    return things


def _journey(rng: random.Random, start: int, size: int) -> list[int]:
    """Places by picture: another from one picture on, mostly in the same row or column; twice so; or any in every picture."""
    style = rng.choice(("once", "once", "twice", "always"))
    if style == "always":
        return [start, *(rng.randrange(9) for _ in range(size - 1))]
    cuts = [0, *sorted(rng.sample(range(1, size), 1 if style == "once" else 2)), size]
    stops = [start]
    while len(stops) < len(cuts) - 1:
        here = stops[-1]
        line = [place for place in range(9) if (place % 3 == here % 3) != (place // 3 == here // 3)]
        stops.append(rng.choice(line if rng.random() < 0.7 else [place for place in range(9) if place != here]))
    return [stop for stop, one, two in zip(stops, cuts[:-1], cuts[1:], strict=True) for _ in range(two - one)]


def _presence(rng: random.Random, size: int) -> list[Thing]:
    """One to three objects that are gone none to three times, or gone from one picture on."""
    count = rng.randint(1, 3)
    things = [_thing(rng, name, spot, size) for name, spot in zip(random_names(rng, count), rng.sample(range(9), count), strict=True)]
    for thing in things:
        if rng.random() < 0.35:
            cut = rng.randint(1, size - 1)
            thing.shown = [index < cut for index in range(size)]
        else:
            thing.gaps = rng.randint(0, min(3, (size - 1) // 2))
            edges = sorted(rng.sample(range(1, size), 2 * thing.gaps))
            thing.shown = [sum(index >= edge for edge in edges) % 2 == 0 for index in range(size)]
    return things


def _entries(rng: random.Random, size: int) -> list[Thing]:
    """Two or three objects that come in one after the other and stay."""
    count = rng.randint(2, 3)
    starts = [0, *sorted(rng.sample(range(1, size), count - 1))]
    things = []
    for name, spot, start in zip(random_names(rng, count), rng.sample(range(9), count), starts, strict=True):
        thing = _thing(rng, name, spot, size)
        thing.shown = [index >= start for index in range(size)]
        things.append(thing)
    rng.shuffle(things)
    return things


def _look(rng: random.Random, size: int) -> list[Thing]:
    """One to three shapes, each once; about each its color, its size, its place or nothing differs."""
    count = rng.randint(1, 3)
    shapes, colors, spots = rng.sample(SHAPES, count), rng.sample(list(COLORS), 2 * count), rng.sample(range(9), 2 * count)
    things = []
    for index, shape in enumerate(shapes):
        thing = _thing(rng, (colors[2 * index], shape), spots[2 * index], size)
        thing.aspect, cut = rng.choice(ASPECTS), rng.randint(1, size - 1)
        if thing.aspect == "its color":
            thing.colors = [thing.color] * cut + [colors[2 * index + 1]] * (size - cut)
        elif thing.aspect == "its size":
            small, large = rng.uniform(0.065, 0.09), rng.uniform(0.14, 0.175)
            ramp = (
                sorted(rng.uniform(small, large) for _ in range(size - 2))
                if rng.random() < 0.7
                else [small] * (cut - 1) + [large] * (size - 1 - cut)
            )
            thing.sizes = [small, *ramp, large]
            if rng.random() < 0.5:
                thing.sizes.reverse()
        elif thing.aspect == "its place":
            thing.places = [thing.places[0]] * cut + [spots[2 * index + 1]] * (size - cut)
        things.append(thing)
    return things


def _ordinal(index: int, size: int, rng: random.Random) -> str:
    return "last" if index == size - 1 and rng.random() < 0.8 else ORDINALS[index]


def change_questions(album: Album, rng: random.Random) -> list[Question]:
    """Questions whose answer needs several pictures, the harder kinds more often."""
    return {"places": _about_places, "presence": _about_presence, "entries": _about_entries, "look": _about_looks}[album.kind](album, rng)


def _compare(name: str, places: list[int], one: int, two: int, rng: random.Random) -> list[Question]:
    """Where the later picture has it, seen from the earlier: one axis only, or each axis by itself."""
    size, start, end = len(places), places[one], places[two]
    later, earlier = _ordinal(two, size, rng), _ordinal(one, size, rng)
    text = f"Where is the {name} in the {later} picture compared to the {earlier}?"
    across = ("left", "right")[end % 3 > start % 3] if end % 3 != start % 3 else None
    along = ("up", "down")[end // 3 > start // 3] if end // 3 != start // 3 else None
    if across and along:
        return [
            Question("compare sides", f"{text} More left or right?", ("left", "right"), across),
            Question("compare heights", f"{text} More up or down?", ("up", "down"), along),
        ]
    return [Question("compare", text, WAYS, across or along or "")] if across or along else []


def _about_places(album: Album, rng: random.Random) -> list[Question]:
    found, size = [], len(album.pictures)
    movers = [thing for thing in album.things if thing.moves]
    for thing in album.things:
        found.append(Question("trace", f"Trace the {thing.name}.", (), ", ".join(PLACES[place] for place in thing.places)))
        index = rng.randrange(size)
        which = _ordinal(index, size, rng)
        place = PLACES[thing.places[index]]
        found.append(Question("where in album", f"Where is the {thing.name} in the {which} picture?", some(rng, place, PLACES), place))
        found.append(Question("keeps its place", f"Does the {thing.name} keep its place?", ("yes", "no"), "no" if thing.moves else "yes"))
    for thing in movers:
        middle = rng.randint(1, size - 2)
        for one, two in ((0, size - 1), (0, size - 1), (0, middle), (middle, size - 1)):
            found += _compare(thing.name, thing.places, one, two, rng)
    found += [Question("how many change place", "How many objects change their place?", COUNTS[:4], str(len(movers)))] * 2
    if len(movers) == 1:
        color, shape = movers[0].color, movers[0].shape
        seen = sorted({thing.color for thing in album.things if thing.color != color})
        colors = (color, *(seen + rng.sample([c for c in COLORS if c != color and c not in seen], 5 - len(seen)))[:3])
        found += [Question("which changes place", "What color is the object that changes its place?", colors, color)] * 2
        found += [Question("which changes place", "What shape is the object that changes its place?", SHAPES, shape)] * 2
    if len(movers) == 2:
        for one, other in (movers, movers[::-1]):
            names = [thing.name for thing in album.things if thing is not one]
            more = (names + rng.sample([name for name in NAMES if name not in names and name != one.name], 2))[:3]
            if other.name in more:
                text = f"Which object changes its place together with the {one.name}?"
                found += [Question("which changes place", text, tuple(more), other.name)] * 2
    return found


def _about_presence(album: Album, rng: random.Random) -> list[Question]:
    found, size = [], len(album.pictures)
    for thing in album.things:
        name, times = thing.name, sum(thing.shown)
        places = [PLACES[place] if shown else "gone" for place, shown in zip(thing.places, thing.shown, strict=True)]
        found.append(Question("trace", f"Trace the {name}.", (), ", ".join(places)))
        marks = ", ".join("yes" if shown else "no" for shown in thing.shown)
        found.append(Question("trace", f"Is the {name} there, picture by picture?", (), marks))
        if thing.gaps or all(thing.shown):
            found += [Question("times gone", f"How many times is the {name} gone?", COUNTS[:4], str(thing.gaps))] * 3
            found.append(Question("runs", f"How many times does the {name} come into the album?", COUNTS[:5], str(thing.gaps + 1)))
        if thing.gaps == 0:
            which = ORDINALS[times - 1]
            found += [Question("last seen", f"Which picture is the last with the {name}?", some(rng, which, ORDINALS[:size]), which)] * 2
        low = max(0, min(times - rng.randint(0, 3), 5))
        found.append(Question("count in album", f"In how many pictures is the {name}?", COUNTS[low : low + 4], str(times)))
        found.append(Question("exists in album", f"Is the {name} in every picture?", ("yes", "no"), "yes" if times == size else "no"))
    return found


def _about_entries(album: Album, rng: random.Random) -> list[Question]:
    found, size = [], len(album.pictures)
    order = sorted(album.things, key=lambda thing: thing.shown.index(True))
    names = tuple(thing.name for thing in album.things)
    options = names if len(names) > 2 else (*names, rng.choice([name for name in NAMES if name not in names]))
    found += [Question("order", "Which object comes in first?", options, order[0].name)] * 2
    found += [Question("order", "Which object comes in last?", options, order[-1].name)] * 2
    found += [Question("order", "In which order do the objects come in?", (), ", ".join(thing.name for thing in order))] * 2
    for thing in album.things:
        which = ORDINALS[thing.shown.index(True)]
        found.append(Question("first seen", f"Which picture is the first with the {thing.name}?", some(rng, which, ORDINALS[:size]), which))
        places = [PLACES[place] if shown else "gone" for place, shown in zip(thing.places, thing.shown, strict=True)]
        found.append(Question("trace", f"Trace the {thing.name}.", (), ", ".join(places)))
    return found


def _about_looks(album: Album, rng: random.Random) -> list[Question]:
    found, size = [], len(album.pictures)
    for thing in album.things:
        shape = thing.shape
        found += [Question("what changes", f"What changes about the {shape}?", ASPECTS, thing.aspect)] * 3
        for index, weight in ((0, 1), (size - 1, 2), (rng.randint(1, size - 2), 1)):
            which, color = _ordinal(index, size, rng), thing.colors[index]
            text = f"What color is the {shape} in the {which} picture?"
            found += [Question("color in album", text, some(rng, color, list(COLORS)), color)] * weight
        if thing.aspect in ("its size", "nothing"):
            first, last = thing.sizes[0], thing.sizes[-1]
            answer = "the same" if first == last else "larger" if last > first else "smaller"
            text = f"Is the {shape} larger, smaller or the same in the last picture compared to the first?"
            found += [Question("compare sizes", text, ("larger", "smaller", "the same"), answer)] * 2
        found.append(
            Question(
                "where in album",
                f"Where is the {shape} in the last picture?",
                some(rng, PLACES[thing.places[-1]], PLACES),
                PLACES[thing.places[-1]],
            )
        )
    return found


def change_conversation(album: Album, rng: random.Random, turns: int, choice_share: float = 0.5) -> list[tuple[str, str]]:
    """Different questions about the album, open or as multiple choice, at most two traces."""
    asked, said, traces = set(), [], 0
    found = change_questions(album, rng)
    rng.shuffle(found)
    for question in found:
        as_choice = bool(question.options) and rng.random() < choice_share
        traces += question.task == "trace"
        if (question.text, as_choice) in asked or (question.task == "trace" and traces > 2):
            continue
        asked.add((question.text, as_choice))
        said.append(question.shuffled(rng).multiple_choice() if as_choice else (question.text, question.answer))
    return said[:turns]
