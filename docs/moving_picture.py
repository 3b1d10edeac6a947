"""Make docs/answer.gif: a held-out clip, the frames the model looks at, and what it answers. `python docs/moving_picture.py`.

A real run: the trained adapter of the folder we are in (outputs/train/adapter, or the one named) answers about a clip of the test set.
Run the pipeline first.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

import pllava
from pllava.apps.demo.samples import samples
from pllava.core.params import load_params
from pllava.video.reader import VideoFrames

TARGET = Path(__file__).with_name("answer.gif")
LIMIT = 1_000_000  # bytes
CLIP, FRAME, GAP, WIDTH = 256, 70, 16, 720  # pixels
STEP = 110  # milliseconds a picture
PAUSE = 3000  # at the end
WHITE, INK, GREY, BLUE = (255, 255, 255), (30, 30, 36), (120, 120, 130), (24, 90, 190)
FONTS = Path(matplotlib.get_data_path()) / "fonts/ttf"
TEXT = ImageFont.truetype(str(FONTS / "DejaVuSans.ttf"), 20)
SMALL = ImageFont.truetype(str(FONTS / "DejaVuSans.ttf"), 13)


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most so many pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if TEXT.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def pictures_of(frames: VideoFrames) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in frames.frames]


def picture(clip: Image.Image, strip: list[Image.Image], looked: int, turns: list[tuple[str, str]]) -> Image.Image:
    """One picture: the clip, questions and answers beside it, and the first `looked` of the frames the model sees below."""
    image = Image.new("RGB", (WIDTH, 3 * GAP + CLIP + FRAME + 20), WHITE)
    draw = ImageDraw.Draw(image)
    image.paste(clip.resize((CLIP, CLIP), Image.Resampling.LANCZOS), (GAP, GAP))
    left, top = 2 * GAP + CLIP, GAP
    for question, answer in turns:
        for text, colour in ((question, INK), (answer, BLUE)):
            for line in wrapped(text, WIDTH - left - GAP):
                draw.text((left, top), line, colour, TEXT)
                top += 28
        top += 16
    draw.text((GAP, CLIP + 2 * GAP - 6), f"the {len(strip)} frames that the model looks at", GREY, SMALL)
    for number, frame in enumerate(strip[:looked]):
        image.paste(frame.resize((FRAME, FRAME), Image.Resampling.LANCZOS), (GAP + number * (FRAME + GAP), CLIP + 2 * GAP + 16))
    return image


def main() -> None:
    model, processor = pllava.load(sys.argv[1] if len(sys.argv) > 1 else "outputs/train/adapter")
    params = load_params()
    chat = pllava.VideoChat(model, processor, template=params.model.template)
    sample = next(sample for sample in samples(params, most=99) if sample.task == "Action Sequence")
    every = pictures_of(pllava.read_video(sample.media, num_frames=params.rendered.num_frames))
    video = chat.watch(sample.media)
    strip, indices = pictures_of(video.frames), video.frames.indices

    shown = [picture(clip, strip, sum(index <= number for index in indices), []) for number, clip in enumerate(every)]
    turns: list[tuple[str, str]] = []
    for question in (sample.question, "Describe the video in detail."):
        answer = ""
        for piece in ("", *video.stream(question)):  # pieces as the model gives them
            answer += piece
            shown.append(picture(every[len(shown) % len(every)], strip, len(strip), [*turns, (question, answer)]))
        turns.append((question, answer))
        print(f"{question}\n-> {answer}")
    palette = shown[-1].quantize(64)
    pictures = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in shown]
    durations = [*[STEP] * (len(pictures) - 1), PAUSE]
    pictures[0].save(TARGET, save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=True)
    size = TARGET.stat().st_size
    print(f"{TARGET}: {len(pictures)} pictures, {size} bytes")
    sys.exit(f"more than {LIMIT} bytes" if size > LIMIT else 0)


if __name__ == "__main__":
    main()
