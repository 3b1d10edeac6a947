"""Albums in which something differs from picture to picture: a place, a presence or a look. For comparing pictures, not for motion.

Every picture shows each object at one place of the 3 x 3 grid; between two pictures an object is placed anew, it never travels.
Objects, changes and answers are drawn so that no answer is likelier than another of its kind.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from stills import COUNTS, NAMES, Still, some

from pllava.stages.render.questions import Question
from pllava.stages.render.scene import COLORS, PLACES, SHAPES, Look, draw, place_center, random_ground, random_names

WAYS = ("left", "right", "up", "down")
ASPECTS = ("its color", "it gets larger", "it gets smaller", "it is gone at times", "nothing")
PARTS = ("the beginning", "the middle", "the end")
CAPTION_REQUEST = "Describe the pictures."


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
            x, y = x + thing.offset[0] + rng.uniform(-0.02, 0.02), y + thing.offset[1] + rng.uniform(-0.02, 0.02)
            items.append((thing.colors[index], thing.shape, thing.places[index]))
            looks.append(Look(thing.colors[index], thing.shape, x, y, thing.sizes[index]))
        album.pictures.append(Picture(tuple(items), tuple(looks)))
    return album


def _thing(rng: random.Random, name: tuple[str, str], place: int, size: int) -> Thing:
    radius = rng.uniform(0.1, 0.13)
    offset = (rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03))
    return Thing(*name, [place] * size, [True] * size, [radius] * size, [name[0]] * size, offset=offset)


def _places(rng: random.Random, size: int) -> list[Thing]:
    """One to three objects, mostly three; any number of them is placed anew, once or twice."""
    count = rng.choices((1, 2, 3), (1, 2, 6))[0]
    movers = rng.randint(0, count)
    names, spots = random_names(rng, count), rng.sample(range(9), count)
    things = [_thing(rng, name, spot, size) for name, spot in zip(names, spots, strict=True)]
    for thing in things[:movers]:
        others = [other for other in things if other is not thing]
        while not thing.moves or any(thing.places[i] == other.places[i] for other in others for i in range(size)):
            thing.places = _journey(rng, spots[things.index(thing)], size)
    rng.shuffle(things)
    return things


def _journey(rng: random.Random, start: int, size: int) -> list[int]:
    """Places by picture: another from one picture on, mostly in the same row or column; or one in the row, then one in the column."""
    row, column = divmod(start, 3)
    across, along = rng.choice([c for c in range(3) if c != column]), rng.choice([r for r in range(3) if r != row])
    style = rng.choice(("line", "line", "diagonal", "corner") if size > 2 else ("line", "line", "diagonal"))
    in_row, in_column, both = row * 3 + across, along * 3 + column, along * 3 + across
    if style == "corner":
        one, two = sorted((rng.randint(1, size // 2), rng.randint(size // 2 + 1, size - 1)))
        return [start] * one + [rng.choice((in_row, in_column))] * (two - one) + [both] * (size - two)
    cut = rng.randint(1, size - 1)
    return [start] * cut + [both if style == "diagonal" else rng.choice((in_row, in_column))] * (size - cut)


def _presence(rng: random.Random, size: int) -> list[Thing]:
    """One to three objects that are gone none to three times, or gone from one picture on."""
    count = rng.randint(1, 3)
    things = [_thing(rng, name, spot, size) for name, spot in zip(random_names(rng, count), rng.sample(range(9), count), strict=True)]
    for thing in things:
        if rng.random() < 0.5:
            third = size / 3
            part = rng.randrange(3)  # so that each part of the album is as likely
            cut = rng.choice([cut for cut in range(1, size) if int((cut - 0.5) / third) == part] or [1])
            thing.shown = [index < cut for index in range(size)]
        else:
            thing.gaps = rng.randint(0, min(3, (size - 1) // 2))
            edges = sorted(rng.sample(range(1, size), 2 * thing.gaps))
            thing.shown = [sum(index >= edge for edge in edges) % 2 == 0 for index in range(size)]
    return things


def _entries(rng: random.Random, size: int) -> list[Thing]:
    """Two or three objects that come in one after the other and stay."""
    count = rng.randint(2, min(3, size))
    starts = [0, *sorted(rng.sample(range(1, size), count - 1))]
    things = []
    for name, spot, start in zip(random_names(rng, count), rng.sample(range(9), count), starts, strict=True):
        thing = _thing(rng, name, spot, size)
        thing.shown = [index >= start for index in range(size)]
        things.append(thing)
    rng.shuffle(things)
    return things


def _look(rng: random.Random, size: int) -> list[Thing]:
    """One to three shapes, each once; about each its color, its size, its presence or nothing differs."""
    count = rng.choice((1, 2, 2, 3))
    shapes, colors, spots = rng.sample(SHAPES, count), rng.sample(list(COLORS), 2 * count), rng.sample(range(9), count)
    things = []
    for index, shape in enumerate(shapes):
        thing = _thing(rng, (colors[2 * index], shape), spots[index], size)
        thing.aspect, cut = rng.choice([aspect for aspect in ASPECTS if size > 2 or "gone" not in aspect]), rng.randint(1, size - 1)
        if thing.aspect == "its color":
            thing.colors = [thing.color] * cut + [colors[2 * index + 1]] * (size - cut)
        elif "gets" in thing.aspect:
            small, large = rng.uniform(0.065, 0.085), rng.uniform(0.145, 0.175)
            thing.sizes = [small, *sorted(rng.uniform(small, large) for _ in range(size - 2)), large]
            if thing.aspect == "it gets smaller":
                thing.sizes.reverse()
        elif "gone" in thing.aspect:
            gaps = rng.randint(1, min(3, (size - 1) // 2))
            edges = sorted(rng.sample(range(1, size), 2 * gaps))
            thing.shown = [sum(at >= edge for edge in edges) % 2 == 0 for at in range(size)]
        things.append(thing)
    return things


def change_questions(album: Album, rng: random.Random) -> list[Question]:
    """Questions whose answer needs several pictures, the harder kinds more often."""
    return {"places": _about_places, "presence": _about_presence, "entries": _about_entries, "look": _about_looks}[album.kind](album, rng)


def _sides(name: str, places: list[int]) -> list[Question]:
    """Where the last picture has it, seen from the first: one axis only, or each axis by itself; and the two steps of a corner."""
    start, end = places[0], places[-1]
    across = ("left", "right")[end % 3 > start % 3] if end % 3 != start % 3 else None
    along = ("up", "down")[end // 3 > start // 3] if end // 3 != start // 3 else None
    text = f"Where is the {name} in the last picture compared to the first?"
    if not (across and along):
        return [Question("compare", text, WAYS, across or along or "")] * 3
    found = [
        Question("compare sides", f"{text} Left or right?", ("left", "right"), across),
        Question("compare heights", f"{text} Up or down?", ("up", "down"), along),
    ]
    stops = list(dict.fromkeys(places))
    if len(stops) == 3:
        ways = (across, along) if stops[1] // 3 == start // 3 else (along, across)
        for word, way in zip(("first", "then"), ways, strict=True):
            found += [Question("two steps", f"To which side is the {name} placed {word}?", WAYS, way)] * 3
    return found


def _about_places(album: Album, rng: random.Random) -> list[Question]:
    found = []
    movers = [thing for thing in album.things if thing.moves]
    for thing in album.things:
        found.append(Question("trace", f"Trace the {thing.name}.", (), ", ".join(PLACES[place] for place in thing.places)))
        found.append(Question("keeps its place", f"Does the {thing.name} keep its place?", ("yes", "no"), "no" if thing.moves else "yes"))
    for thing in movers:
        found += _sides(thing.name, thing.places)
    found += [Question("how many change place", "How many objects change their place?", COUNTS[:4], str(len(movers)))] * 3
    if len(movers) == 1:
        color, shape = movers[0].color, movers[0].shape
        seen = sorted({thing.color for thing in album.things if thing.color != color})
        colors = (color, *(seen + rng.sample([c for c in COLORS if c != color and c not in seen], 5 - len(seen)))[:3])
        found += [Question("which changes place", "What color is the object that changes its place?", colors, color)] * 3
        found += [Question("which changes place", "What shape is the object that changes its place?", SHAPES, shape)] * 3
    if len(movers) == 2:
        for one, other in (movers, movers[::-1]):
            names = [thing.name for thing in album.things if thing is not one]
            more = (names + rng.sample([name for name in NAMES if name not in names and name != one.name], 2))[:3]
            text = f"Which object changes its place together with the {one.name}?"
            found += [Question("together", text, tuple(more), other.name)] * 2
    return found


def _marks(thing: Thing) -> str:
    return ", ".join(PLACES[place] if shown else "gone" for place, shown in zip(thing.places, thing.shown, strict=True))


def _about_presence(album: Album, rng: random.Random) -> list[Question]:
    found, size = [], len(album.pictures)
    for thing in album.things:
        name, times = thing.name, sum(thing.shown)
        found.append(Question("trace", f"Trace the {name}.", (), _marks(thing)))
        if thing.gaps or all(thing.shown):
            found += [Question("times gone", f"How many times is the {name} gone?", COUNTS[:4], str(thing.gaps))] * 3
        if times < size and thing.gaps == 0:
            part = _part(times, size)
            found += [Question("until", f"Up to which part of the album is the {name} there?", PARTS, part)] * 3
    return found


def _about_entries(album: Album, rng: random.Random) -> list[Question]:
    order = sorted(album.things, key=lambda thing: thing.shown.index(True))
    names = tuple(thing.name for thing in album.things)
    options = names if len(names) > 2 else (*names, rng.choice([name for name in NAMES if name not in names]))
    found = [Question("order", "Which object comes in first?", options, order[0].name)] * 3
    found += [Question("order", "Which object comes in last?", options, order[-1].name)] * 3
    found.append(Question("order of all", "In which order do the objects come in?", (), ", ".join(thing.name for thing in order)))
    return found + [Question("trace", f"Trace the {thing.name}.", (), _marks(thing)) for thing in album.things]


def _about_looks(album: Album, rng: random.Random) -> list[Question]:
    found = []
    for thing in album.things:
        options = some(rng, thing.aspect, ASPECTS)
        found += [Question("what changes", f"What changes about the {thing.shape}?", options, thing.aspect)] * 4
        if "gone" not in thing.aspect:
            color = thing.colors[-1]
            text = f"What color is the {thing.shape} in the last picture?"
            found.append(Question("color in album", text, some(rng, color, list(COLORS)), color))
    return found


def change_caption(album: Album) -> str:
    """A sentence an object, in reading order of the places in the first picture (or in the order of their coming in)."""
    if album.kind == "entries":
        order = sorted(album.things, key=lambda thing: thing.shown.index(True))
        return f"First the {order[0].name} comes in, then the " + ", then the ".join(thing.name for thing in order[1:]) + "."
    return " ".join(f"The {thing.name} {_does(thing, album.kind)}." for thing in sorted(album.things, key=lambda thing: thing.places[0]))


def _does(thing: Thing, kind: str) -> str:
    if kind == "look":
        said = {"its color": f"gets another color, {thing.colors[-1]}", "nothing": "is the same in every picture"}
        return said.get(thing.aspect) or thing.aspect.removeprefix("it ")
    if kind == "presence":
        times = sum(thing.shown)
        if thing.gaps:
            return f"is gone {('once', 'twice', 'three times')[thing.gaps - 1]}"
        return "is in every picture" if all(thing.shown) else f"is there up to {_part(times, len(thing.shown))}"
    return f"is placed {' and then '.join(_steps(thing.places))}" if thing.moves else "keeps its place"


def _steps(places: list[int]) -> list[str]:
    """The way from place to place: "left", "left and up", or the two ways of a corner."""
    stops = list(dict.fromkeys(places))
    steps = []
    for start, end in pairwise(stops):
        across = ("left", "right")[end % 3 > start % 3] if end % 3 != start % 3 else None
        along = ("up", "down")[end // 3 > start // 3] if end // 3 != start // 3 else None
        steps.append(" and ".join(filter(None, (across, along))))
    return steps


def _part(times: int, size: int) -> str:
    return PARTS[int((times - 0.5) / (size / 3))]


def change_conversation(album: Album, rng: random.Random, turns: int, choice_share: float = 0.5) -> list[tuple[str, str]]:
    """Different questions about the album, open or as multiple choice, at most one trace."""
    asked, said, traces = set(), [], 0
    found = change_questions(album, rng)
    rng.shuffle(found)
    for question in found:
        as_choice = bool(question.options) and rng.random() < choice_share
        traces += question.task == "trace"
        if (question.text, as_choice) in asked or (question.task == "trace" and traces > 1):
            continue
        asked.add((question.text, as_choice))
        said.append(question.shuffled(rng).multiple_choice() if as_choice else (question.text, question.answer))
    return said[:turns]
