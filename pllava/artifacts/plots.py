"""Plots of the report as PNG bytes. Equal data gives equal bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

matplotlib.use("Agg")

COLORS = {"adapted": "#17697f", "single_frame": "#e09f3e", "base": "#b3b3b3"}
NAMES = {"adapted": "adapted", "single_frame": "adapted, one frame", "base": "base"}
INK = "#333333"
DPI = 130
STRIP_FRAMES, STRIP_HEIGHT, STRIP_GAP = 8, 96, 3  # pixels


def accuracy_by_task(models: dict[str, Any], title: str) -> bytes:
    """Bars for each task and model with 95 % intervals; a black line marks chance. The adapted model's best task is on top.

    models: the `models` of a metrics file.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.5, foreground="white")]  # keeps numbers readable where they cross the line of chance
    order = [model for model in COLORS if model in models]
    scored = [task for task in models[order[0]]["tasks"] if all(models[m]["tasks"][task]["value"] is not None for m in order)]
    tasks = sorted(scored, key=lambda task: models[order[0]]["tasks"][task]["value"])
    height = 0.8 / len(order)
    figure, axes = plt.subplots(figsize=(8.2, 1.3 + 0.62 * len(tasks)), layout="constrained")
    for index, model in enumerate(order):
        cells = [models[model]["tasks"][task] for task in tasks]
        values = np.array([100 * cell["value"] for cell in cells])
        below = values - [100 * cell["low"] for cell in cells]
        above = [100 * cell["high"] for cell in cells] - values
        positions = np.arange(len(tasks)) + 0.4 - height * (index + 0.5)
        axes.barh(positions, values, height * 0.92, color=COLORS[model])
        axes.errorbar(values, positions, xerr=np.maximum([below, above], 0), fmt="none", ecolor=INK, elinewidth=0.9, capsize=1.8)
        for position, cell in zip(positions, cells, strict=True):
            axes.annotate(
                f"{100 * cell['value']:.0f}",
                (100 * cell["high"], position),
                (4, -0.5),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color=INK,
                fontweight="bold" if model == "adapted" else "normal",
                path_effects=halo,
                zorder=5,
            )
        top = cells[-1]
        inside = top["low"] > 0.3  # the bar is long enough to hold the model's name
        axes.annotate(
            NAMES[model],
            (0 if inside else 100 * top["high"], positions[-1]),
            (5 if inside else 22, -0.5),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color="white" if inside and model == "adapted" else INK,
            path_effects=[] if inside else halo,
            zorder=5,
        )
    for position, task in enumerate(tasks):
        chance = 100 * models[order[0]]["tasks"][task]["chance"]
        if not chance:  # an open question
            continue
        axes.plot([chance, chance], [position - 0.44, position + 0.44], color="black", linewidth=1.4, solid_capstyle="butt")
        if position == len(tasks) - 1:
            axes.annotate("chance", (chance, position + 0.44), (0, 2), textcoords="offset points", ha="center", fontsize=7.5)
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_ylim(-0.6, len(tasks) - 0.25)
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 25), [f"{tick} %" for tick in range(0, 101, 25)])
    axes.tick_params(length=0)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    _finish(axes, title)
    return _png(figure)


def loss_curve(history: Sequence[dict[str, Any]], title: str) -> bytes:
    """Two plots by step: training and validation loss above, learning rate below. history: records of history.jsonl."""
    import matplotlib.pyplot as plt

    figure, (losses, rates) = plt.subplots(2, 1, figsize=(8.2, 4.6), sharex=True, height_ratios=[3, 1], layout="constrained")
    for axes, key, name, color, marker in (
        (losses, "loss", "training", COLORS["adapted"], ""),
        (losses, "val_loss", "validation", COLORS["single_frame"], "o"),
        (rates, "lr", "", INK, ""),
    ):
        points = [(row["step"], row[key]) for row in history if row.get(key) is not None]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=color, marker=marker, markersize=4, linewidth=1.6)
        if name:
            axes.annotate(
                f"{name} {values[-1]:.3f}",
                (steps[-1], values[-1]),
                (6, 6 if key == "val_loss" else -6),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=color,
                annotation_clip=False,
            )
    last = max((row["step"] for row in history), default=1)
    losses.set_xlim(0, last * 1.17)  # room for the labels at the curves' ends
    losses.set_xticks([tick for tick in losses.get_xticks() if 0 <= tick <= last])
    losses.set_ylim(bottom=0)
    losses.set_ylabel("loss a supervised token", fontsize=8.5)
    rates.set_ylim(bottom=0)
    rates.set_ylabel("learning rate", fontsize=8.5)
    rates.set_xlabel("step", fontsize=8.5)
    for axes in (losses, rates):
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.tick_params(length=0, labelsize=8)
        _finish(axes, title if axes is losses else "")
    return _png(figure)


def filmstrip(frames: np.ndarray) -> bytes:
    """Up to eight evenly spaced frames side by side. frames: uint8 [T, H, W, 3]."""
    chosen = frames[np.linspace(0, len(frames) - 1, min(STRIP_FRAMES, len(frames))).round().astype(int)]
    width = max(1, round(STRIP_HEIGHT * frames.shape[2] / frames.shape[1]))
    strip = Image.new("RGB", (len(chosen) * (width + STRIP_GAP) - STRIP_GAP, STRIP_HEIGHT), "white")
    for index, frame in enumerate(chosen):
        strip.paste(Image.fromarray(frame).resize((width, STRIP_HEIGHT), Image.Resampling.BICUBIC), (index * (width + STRIP_GAP), 0))
    buffer = io.BytesIO()
    strip.save(buffer, "PNG")
    return buffer.getvalue()


def _finish(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#bbbbbb")


def _png(figure: Figure) -> bytes:
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()
