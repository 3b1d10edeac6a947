"""The questions about a clip, by MVBench task, and its dense caption. The answers come from the clip's script, not from its pixels."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from pllava.stages.render.clip import CHANGES, PHASES, Actor, Clip
from pllava.stages.render.scene import COLORS, SHAPES

# MVBench task -> theme of its clips
TASKS = {
    "Moving Direction": "motion",
    "Moving Count": "motion",
    "Moving Attribute": "motion",
    "Object Existence": "motion",
    "Action Sequence": "turn",
    "Action Count": "blink",
    "State Change": "change",
    "Object Interaction": "push",
    "Character Order": "order",
    "Action Localization": "timing",
}
STILL_TASKS = ("Object Existence",)  # one frame is enough; every other task is temporal
CAPTION_REQUESTS = ("Describe the video in detail.", "What happens in the video?")
LETTERS = "ABCDEFG"


@dataclass(frozen=True)
class Question:
    """A question with one right answer among its options."""

    task: str
    text: str
    options: tuple[str, ...]
    answer: str

    def shuffled(self, rng: random.Random) -> Question:
        return Question(self.task, self.text, tuple(rng.sample(self.options, len(self.options))), self.answer)

    def multiple_choice(self) -> tuple[str, str]:
        """(question with lettered options, answer with its letter), in the format of VideoChat2-IT."""
        lines = "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, self.options, strict=False))
        letter = LETTERS[self.options.index(self.answer)]
        return f"Question: {self.text}\nOptions:\n{lines}", f"Answer: ({letter}) {self.answer}"


def questions(clip: Clip, rng: random.Random) -> Iterator[Question]:
    """Every question about this clip that has one right answer. Options are drawn at random but not shuffled."""
    movers = [actor for actor in clip.actors if actor.moves]
    names = [actor.name for actor in clip.actors]
    if clip.theme == "motion":
        for actor in movers:
            yield Question(
                "Moving Direction", f"In which direction does the {actor.name} move?", ("left", "right", "up", "down"), actor.moves[0]
            )
        yield Question("Moving Count", "How many objects are moving?", ("0", "1", "2", "3"), str(len(movers)))
        if len(movers) == 1:
            colors = _with_others(rng, movers[0].color, [actor.color for actor in clip.actors], list(COLORS), 4)
            yield Question("Moving Attribute", "What color is the moving object?", colors, movers[0].color)
            yield Question("Moving Attribute", "What shape is the moving object?", SHAPES, movers[0].shape)
    if clip.theme == "turn":
        for word, direction in zip(("first", "last"), movers[0].moves, strict=True):
            yield Question(
                "Action Sequence", f"In which direction does the {movers[0].name} move {word}?", ("left", "right", "up", "down"), direction
            )
    if clip.theme == "blink":
        for actor in clip.actors:
            yield Question("Action Count", f"How many times does the {actor.name} blink?", ("0", "1", "2", "3"), str(actor.blinks))
    if clip.theme == "change":
        for actor in clip.actors:
            if actor.change:
                yield Question("State Change", f"What happens to the {actor.shape}?", CHANGES, actor.change)
    if clip.pushed is not None:
        target = clip.actors[clip.pushed].name
        options = _with_others(rng, target, names[1:], [_absent(rng, names)], 3)
        yield Question("Object Interaction", f"Which object does the {names[0]} push?", options, target)
    if clip.order:
        yield Question("Character Order", "Which object appears first?", tuple(names), names[clip.order[0]])
        yield Question("Character Order", "Which object appears last?", tuple(names), names[clip.order[-1]])
    for actor in clip.actors:
        if actor.phase:
            yield Question("Action Localization", f"When does the {actor.name} disappear?", PHASES, actor.phase)
    if not any(actor.change for actor in clip.actors):
        present = rng.choice(names)
        yield Question("Object Existence", f"Is there a {present} in the video?", ("yes", "no"), "yes")
        yield Question("Object Existence", f"Is there a {_absent(rng, names)} in the video?", ("yes", "no"), "no")


def caption(clip: Clip) -> str:
    """The dense caption: one sentence an object, in reading order of their first cells; one sentence for objects that appear in turn."""
    if clip.order:
        first, second, third = (clip.actors[index].name for index in clip.order)
        return f"First the {first} appears, then the {second}, then the {third}."
    sentences = []
    for index, actor in sorted(enumerate(clip.actors), key=lambda item: _first_place(item[1])):
        if clip.pushed is not None and index == 0:
            does = f"moves {actor.moves[0]} and pushes the {clip.actors[clip.pushed].name}"
        elif clip.pushed == index:
            continue
        elif actor.moves:
            does = "moves " + " and then ".join(actor.moves)
        elif actor.phase:
            does = f"disappears {actor.phase}"
        elif actor.change == "changes color":
            does = f"changes color to {actor.new_color}"
        elif actor.change and actor.change != "blinks":
            does = actor.change
        elif actor.blinks:
            does = f"blinks {('once', 'twice', 'three times')[actor.blinks - 1]}"
        else:
            does = "stays still"
        sentences.append(f"The {actor.name} {does}.")
    return " ".join(sentences)


def _first_place(actor: Actor) -> int:
    """The cell 0..8, row by row, where the object begins."""
    _, x, y = actor.path[0]
    return int(y * 3) * 3 + int(x * 3)


def _with_others(rng: random.Random, answer: str, near: list[str], far: list[str], count: int) -> tuple[str, ...]:
    """The answer and `count` - 1 other options, first those in the clip (`near`), then those outside of it (`far`)."""
    others = sorted({item for item in near if item != answer})
    rng.shuffle(others)
    rest = sorted({item for item in far if item != answer and item not in others})
    rng.shuffle(rest)
    return (answer, *(others + rest)[: count - 1])


def _absent(rng: random.Random, names: list[str]) -> str:
    """A name that no object has. In half of the draws the clip has both its color and its shape, on different objects."""
    colors, shapes = {name.split()[0] for name in names}, {name.split()[1] for name in names}
    absent = [f"{color} {shape}" for color in COLORS for shape in SHAPES if f"{color} {shape}" not in names]
    near = [name for name in absent if name.split()[0] in colors and name.split()[1] in shapes]
    return rng.choice(near) if near and rng.random() < 0.5 else rng.choice(absent)
