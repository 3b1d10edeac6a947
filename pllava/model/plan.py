"""`pllava plan`: estimates the memory that a recipe needs, and whether it fits a device. Loads no weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pllava.core.errors import PllavaError
from pllava.core.files import read_json
from pllava.model import memory
from pllava.model.configuration import PllavaConfig
from pllava.model.memory import GiB, Memory

if TYPE_CHECKING:
    from pllava.core.params import Params

RESERVED = 0.08  # share of a device's memory that drivers, kernels and fragmentation take


@dataclass(frozen=True)
class Plan:
    """Estimates for one recipe on one device. Bytes are per process, which is per GPU."""

    name: str
    base: str
    dtype: str
    visual_shape: tuple[int, int, int]
    num_frames: int
    context: int
    clips: int  # one process trains on at once
    inference: Memory
    training: Memory
    parameters: int
    trainable: int
    device_bytes: int | None
    recompute: str = "none"  # train.gradient_checkpointing

    @property
    def visual_tokens(self) -> int:
        t, h, w = self.visual_shape
        return t * h * w

    @property
    def text_budget(self) -> int:
        """Tokens of text, answers included, that fit the context beside one video."""
        return self.context - self.visual_tokens

    def fits(self, need: Memory) -> bool:
        return self.device_bytes is None or need.total <= self.device_bytes * (1 - RESERVED)


def make_plan(
    name: str,
    params: Params,
    device_gib: float | None = None,
    text_tokens: int | None = None,
    new_tokens: int = 128,
    questions: int = 1,
    beams: int = 1,
    processes: int = 1,
    bits: int | None = None,
) -> Plan:
    """The plan of a recipe. Raises PllavaError if the base's config can't be had, or if the visual tokens fill the context."""
    config = base_config(params)
    context = config.text_config.max_position_embeddings
    if config.num_visual_tokens >= context:
        shape = " x ".join(map(str, config.visual_shape))
        raise PllavaError(
            f"{name}: {config.num_visual_tokens} visual tokens ({shape}) do not fit a context of {context}. Lower model.pooling_shape"
        )
    if bits not in (None, 4, 8):
        raise PllavaError(f"--bits {bits}: the language model can be packed to 4 or 8 bits")
    if bits is None and params.model.quantization:
        bits = int(params.model.quantization.removesuffix("bit"))
    train = params.train
    clips = max(1, train.batch_size // (processes * train.gradient_accumulation))
    dtype = params.model.dtype if params.model.dtype != "auto" else "bfloat16"
    text = text_tokens or train.max_length
    targets = train.lora.target_modules
    return Plan(
        name=name,
        base=params.model.base,
        dtype=dtype if bits is None else f"{dtype}, language model in {bits} bits",
        visual_shape=config.visual_shape,
        num_frames=config.num_frames,
        context=context,
        clips=clips,
        inference=memory.inference(config, text, new_tokens, questions, beams, dtype, bits),
        training=memory.training(config, text, clips, train.lora.r, targets, dtype, bits, recompute=train.gradient_checkpointing),
        parameters=memory.parameters(config).total,
        trainable=memory.trainable_parameters(config, train.lora.r, targets),
        device_bytes=None if device_gib is None else int(device_gib * GiB),
        recompute=train.gradient_checkpointing,
    )


def base_config(params: Params) -> PllavaConfig:
    """The base's config with the video settings of the recipe. Fetches no weights.

    The config comes from the base's folder, else from a shipped recipe with the same base, else from the hub.
    """
    from pllava.core import recipes as recipe
    from pllava.model.layouts import read_config

    base = params.model.base
    shipped = (file for file in sorted((recipe.RECIPES / "models").glob("*.json")) if recipe.load(file.stem).model.base == base)
    file = None if Path(base).is_dir() else next(shipped, None)
    raw = read_json(file) if file else read_config(base)
    return PllavaConfig.from_llava(
        raw, num_frames=params.model.num_frames, pooling_shape=params.model.pooling_shape, pooling_method=params.model.pooling_method
    )


def describe(plan: Plan) -> str:
    """A text for people: memory of inference and training as a table, whether each fits the device, and advice if not."""
    t, h, w = plan.visual_shape
    lines = [
        f"{plan.name}: {plan.base}, {plan.parameters / 1e9:.2f} B parameters, {plan.dtype}"
        if plan.parameters > 1e8
        else f"{plan.name}: {plan.base}, {plan.parameters / 1e6:.1f} M parameters, {plan.dtype}",
        f"{'visual tokens':<24}{plan.visual_tokens:,} a video ({plan.num_frames} frames pooled to {t} x {h} x {w})",
        f"{'text budget':<24}{plan.text_budget:,} tokens of a context of {plan.context:,}",
        f"{'trained':<24}{plan.trainable / 1e6:.1f} M parameters (LoRA and projector)",
        "",
        f"{'':<24}{'inference':>12}{'training, ' + str(plan.clips) + ' clip(s) a process':>32}",
    ]
    rows = (("weights", "weights"), ("KV cache", "kv_cache"), ("activations", "activations"), ("LoRA, projector, AdamW", "trained"))
    for label, field in (*rows, ("peak", "total")):
        lines.append(f"{label:<24}{_size(getattr(plan.inference, field)):>12}{_size(getattr(plan.training, field)):>32}")
    if plan.device_bytes is not None:
        lines.append("")
        for use, need in (("inference", plan.inference), ("training", plan.training)):
            usable = plan.device_bytes * (1 - RESERVED)
            verdict = "fits" if plan.fits(need) else f"does not fit: {_size(int(need.total - usable))} too much"
            lines.append(f"{use} on {_size(plan.device_bytes)}: {verdict}")
        lines += _advice(plan)
    return "\n".join(lines)


def _advice(plan: Plan) -> list[str]:
    """Lines that name settings with a smaller need of memory; none if the plan fits."""
    advice = []
    if not plan.fits(plan.training) and plan.clips > 1:
        if plan.recompute != "blocks":
            advice.append("  train.gradient_checkpointing: mlp or blocks keeps less; the update stays the same")
        advice.append("  fewer clips at once: raise train.gradient_accumulation, or --processes for more GPUs; the update stays the same")
    if not plan.fits(plan.inference) or (not plan.fits(plan.training) and plan.clips == 1):
        advice.append("  --bits 8 or --bits 4 shows the language model packed; device_map spreads a model over several GPUs")
    return advice


def _size(count: int) -> str:
    if count == 0:
        return "-"
    return f"{count / GiB:.1f} GiB" if count >= GiB // 10 else f"{count / (1 << 20):.1f} MiB"
