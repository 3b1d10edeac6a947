"""Rendered still images and albums of stills, with questions by kind; and text-only stories that carry the words of motion.

The base is an image-language model: it sees single pictures and albums of unrelated arrangements, never a clip.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from pllava.stages.render.clip import CHANGES, DIRECTIONS, PHASES, random_clip
from pllava.stages.render.questions import Question, caption, questions
from pllava.stages.render.scene import COLORS, PLACES, SHAPES, Look, draw, place_center, random_ground, random_names

NAMES = [f"{color} {shape}" for color in COLORS for shape in SHAPES]
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
COUNTS = ("0", "1", "2", "3", "4", "5", "6", "7", "8")
CAPTION_REQUEST = "Describe the picture."


@dataclass(frozen=True)
class Still:
    """Objects at places of the 3 x 3 grid."""

    items: tuple[tuple[str, str, int], ...]  # color, shape, place

    @property
    def names(self) -> list[str]:
        return [f"{color} {shape}" for color, shape, _ in self.items]

    def render(self, rng: random.Random, size: int) -> tuple[np.ndarray, list[Look]]:
        looks = []
        for color, shape, place in self.items:
            x, y = place_center(place)
            looks.append(Look(color, shape, x + rng.uniform(-0.05, 0.05), y + rng.uniform(-0.05, 0.05), rng.uniform(0.08, 0.15)))
        return draw(looks, size, random_ground(rng)), looks


def random_still(rng: random.Random, names: list[tuple[str, str]] | None = None) -> Still:
    """One to four objects; given names are placed anew."""
    if names is None:
        names = random_names(rng, rng.choice((1, 2, 2, 3, 3, 4)), distinct_colors=rng.random() < 0.4)
    return Still(tuple((color, shape, place) for (color, shape), place in zip(names, rng.sample(range(9), len(names)), strict=True)))


def still_caption(still: Still) -> str:
    """Objects in reading order: "red circle top left, blue square center"."""
    return ", ".join(f"{color} {shape} {PLACES[place]}" for color, shape, place in sorted(still.items, key=lambda item: item[2]))


def some(rng: random.Random, answer: str, pool: tuple[str, ...] | list[str], count: int = 4) -> tuple[str, ...]:
    """The answer among `count` options."""
    return (answer, *rng.sample([item for item in pool if item != answer], count - 1))


def still_questions(still: Still, rng: random.Random) -> list[Question]:
    """Every kind of question about one picture; `task` holds the kind."""
    found = []
    colors = [color for color, _, _ in still.items]
    shapes = [shape for _, shape, _ in still.items]
    for color, shape, place in still.items:
        name = f"{color} {shape}"
        found.append(Question("where", f"Where is the {name}?", some(rng, PLACES[place], PLACES), PLACES[place]))
        found.append(Question("what", f"What is at the {PLACES[place]}?", some(rng, name, NAMES), name))
        if shapes.count(shape) == 1:
            found.append(Question("color", f"What color is the {shape}?", some(rng, color, list(COLORS)), color))
        if colors.count(color) == 1:
            found.append(Question("shape", f"What shape is the {color} object?", SHAPES, shape))
    found.append(Question("count", "How many objects are there?", COUNTS[1:5], str(len(still.items))))
    color, shape = rng.choice(colors), rng.choice(SHAPES)
    found.append(Question("count", f"How many {color} objects are there?", COUNTS[:4], str(colors.count(color))))
    found.append(Question("count", f"How many {shape}s are there?", COUNTS[:5], str(shapes.count(shape))))
    found.append(Question("exists", f"Is there a {rng.choice(still.names)}?", ("yes", "no"), "yes"))
    absent = [name for name in NAMES if name not in still.names]
    near = [name for name in absent if name.split()[0] in colors and name.split()[1] in shapes]
    found.append(Question("exists", f"Is there a {rng.choice(near if near and rng.random() < 0.6 else absent)}?", ("yes", "no"), "no"))
    return found


def random_album(rng: random.Random, size: int) -> list[Still]:
    """Pictures of the same few objects. Each object keeps its place or is placed anew from picture to picture, and is in all of them, in
    some, up to one or from one on. None shows motion: places are drawn, not travelled."""
    names = random_names(rng, rng.choice((1, 2, 3, 3)))
    restless = {name: rng.choice((0.0, 0.0, 0.4, 1.0)) for name in names}
    shown = {name: _presence(rng, size) for name in names}
    places = dict(zip(names, rng.sample(range(9), len(names)), strict=True))
    pictures: list[Still] = []
    for index in range(size):
        for name in names:
            if index and rng.random() < restless[name]:
                places[name] = rng.choice([place for place in range(9) if place not in places.values()])
        pictures.append(Still(tuple((*name, places[name]) for name in names if shown[name][index])))
    return pictures


def _presence(rng: random.Random, size: int) -> list[bool]:
    kind, cut = rng.choice(("all", "all", "some", "until", "from", "bursts")), rng.randint(1, size - 1)
    if kind == "some":
        return [rng.random() < 0.5 for _ in range(size)]
    if kind == "bursts":  # shown and hidden by turns
        length, phase = rng.choice((1, 1, 2)), rng.randint(0, 1)
        return [((index // length) + phase) % 2 == 0 for index in range(size)]
    return [kind == "all" or (index < cut) == (kind == "until") for index in range(size)]


def album_questions(album: list[Still], rng: random.Random) -> list[Question]:
    """Questions that name a picture by its place in the album, compare two pictures, or count over all of them."""
    found = []
    places = [{f"{color} {shape}": place for color, shape, place in still.items} for still in album]
    for index, shown in enumerate(places):
        which = "last" if index == len(album) - 1 and rng.random() < 0.6 else ORDINALS[index]
        weight = 2 if index in (0, len(album) - 1) else 1  # first and last are asked more
        for name, place in shown.items():
            question = f"Where is the {name} in the {which} picture?"
            found += [Question("where in album", question, some(rng, PLACES[place], PLACES), PLACES[place])] * weight
        if len(shown) == 1:
            name = next(iter(shown))
            found.append(Question("what in album", f"What is in the {which} picture?", some(rng, name, NAMES), name))
    for name in sorted({name for shown in places for name in shown}):
        times = sum(name in shown for shown in places)
        low = max(0, min(times - rng.randint(0, 3), 5))
        found.append(Question("count in album", f"In how many pictures is the {name}?", COUNTS[low : low + 4], str(times)))
        found.append(Question("exists in album", f"Is the {name} in every picture?", ("yes", "no"), "yes" if times == len(album) else "no"))
        runs = sum(name in shown and (index == 0 or name not in places[index - 1]) for index, shown in enumerate(places))
        found.append(Question("runs", f"How many times does the {name} come into the album?", ("0", "1", "2", "3", "4"), str(min(runs, 4))))
        where = {shown[name] for shown in places if name in shown}
        found.append(Question("keeps its place", f"Does the {name} keep its place?", ("yes", "no"), "yes" if len(where) == 1 else "no"))
        first, last = places[0].get(name), places[-1].get(name)
        if first is not None and last is not None:
            moved = first != last
            found.append(
                Question(
                    "same place",
                    f"Is the {name} at the same place in the first and the last picture?",
                    ("yes", "no"),
                    "no" if moved else "yes",
                )
            )
            ways = [("left", "right")[last % 3 > first % 3]] * (last % 3 != first % 3) + [("up", "down")[last // 3 > first // 3]] * (
                last // 3 != first // 3
            )
            if len(ways) == 1:
                text = f"Where is the {name} in the last picture compared to the first?"
                found += [Question("compare", text, ("left", "right", "up", "down"), ways[0])] * 3
        opens = next(index for index, shown in enumerate(places) if name in shown)
        if times < len(album):
            answer = ORDINALS[opens]
            found.append(
                Question(
                    "first seen", f"Which picture is the first with the {name}?", some(rng, answer, ORDINALS[: max(4, len(album))]), answer
                )
            )
    names = sorted({name for shown in places for name in shown})
    keeping = [name for name in names if len({shown[name] for shown in places if name in shown}) == 1]
    restless = [name for name in names if name not in keeping]
    found += [Question("how many change place", "How many objects change their place?", COUNTS[:4], str(len(restless)))] * 2
    if len(restless) == 1:
        color, shape = restless[0].split()
        found.append(
            Question("which changes place", "What color is the object that changes its place?", some(rng, color, list(COLORS)), color)
        )
        found.append(Question("which changes place", "What shape is the object that changes its place?", SHAPES, shape))
    for end, shown in (("first", places[0]), ("last", places[-1])):
        if len(shown) == 1 and len(names) > 1:
            name = next(iter(shown))
            found.append(Question("only one", f"Which object is in the {end} picture?", (name, *(n for n in names if n != name)), name))
    return found


def story(rng: random.Random) -> tuple[str, list[Question]]:
    """Text only: sentences about moving shapes, and questions they answer. Teaches words and multiple choice, not seeing."""
    clip = random_clip(rng)
    return caption(clip), list(questions(clip, rng))


def echo(rng: random.Random) -> Question:
    """Multiple choice whose answer stands in the question: practice in finding an option, without anything to see or to know."""
    options = rng.choice((NAMES, list(PLACES), list(COLORS), list(COUNTS), list(DIRECTIONS), list(CHANGES), list(PHASES), ["yes", "no"]))
    chosen = rng.sample(options, min(len(options), rng.choice((2, 3, 4, 4))))
    return Question("echo", f"Choose {chosen[0]}.", tuple(chosen), chosen[0])


def conversation(asked: list[Question], rng: random.Random, choice_share: float = 0.4) -> list[tuple[str, str]]:
    """Question and answer pairs, some as multiple choice with shuffled options."""
    turns = []
    for question in asked:
        turns.append(question.shuffled(rng).multiple_choice() if rng.random() < choice_share else (question.text, question.answer))
    return turns
