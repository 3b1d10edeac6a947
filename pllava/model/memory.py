"""Estimates the memory a model takes from its config alone, without weights or a device. Adds up the tensors that exist at the same time.

The tensors are those of `modeling` with sdpa attention. tests/unit/model/test_memory.py compares the estimates with measured peaks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pllava.model.configuration import PllavaConfig

GiB = 1 << 30
FP32 = 4
TARGETS = ("q_proj", "v_proj")  # of the published training
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters by part."""

    tower: int
    projector: int
    language: int  # with embeddings and head
    language_linear: int  # of the matrices that quantisation packs

    @property
    def total(self) -> int:
        return self.tower + self.projector + self.language


@dataclass(frozen=True)
class Memory:
    """Bytes by purpose. `total` is the peak."""

    weights: int
    activations: int
    kv_cache: int = 0
    trained: int = 0  # LoRA and projector in fp32: weights, gradients, two moments

    @property
    def total(self) -> int:
        return self.weights + self.activations + self.kv_cache + self.trained


def parameters(config: PllavaConfig) -> Parameters:
    """Counts parameters on the meta device, so a large model takes no memory."""
    from pllava.model.load import expected_tensors

    counts = {"tower": 0, "projector": 0, "language": 0, "linear": 0}
    for name, shape in expected_tensors(config).items():
        part = "tower" if name.startswith("vision_tower") else "projector" if name.startswith("multi_modal") else "language"
        counts[part] += math.prod(shape)
        if part == "language" and "_proj." in name:
            counts["linear"] += math.prod(shape)
    return Parameters(counts["tower"], counts["projector"], counts["language"], counts["linear"])


def weight_bytes(config: PllavaConfig, dtype: str, bits: int | None = None) -> int:
    """Bytes of all weights in `dtype`. With `bits` (8 or 4) the matrices of the language model are packed, as in `pllava.load`."""
    count, each = parameters(config), DTYPE_BYTES[dtype]
    if bits is None:
        return count.total * each
    return (count.total - count.language_linear) * each + count.language_linear * bits // 8


def kv_cache_bytes(config: PllavaConfig, tokens: int, sequences: int, dtype: str) -> int:
    """Bytes of the keys and values of all layers, for `tokens` positions of `sequences` sequences. Each beam is a sequence."""
    text = config.text_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = text.num_key_value_heads or text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * head * tokens * sequences * DTYPE_BYTES[dtype]


def encode_bytes(config: PllavaConfig, videos: int, dtype: str) -> int:
    """Peak bytes of tower and projector for `videos` encoded at once. The tower's MLP holds three wide and three narrow tensors."""
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    frames = videos * config.num_frames
    tower = frames * (patches + 1) * 3 * (vision.hidden_size + vision.intermediate_size)
    projected = frames * patches * (vision.hidden_size + 2 * config.text_config.hidden_size)
    return max(tower, projected) * DTYPE_BYTES[dtype]


def inference(
    config: PllavaConfig,
    text_tokens: int,
    new_tokens: int,
    batch: int = 1,
    beams: int = 1,
    dtype: str = "bfloat16",
    bits: int | None = None,
) -> Memory:
    """Memory to encode, prefill and answer `batch` videos with one question each."""
    text = config.text_config
    prompt = config.num_visual_tokens + text_tokens
    cache = kv_cache_bytes(config, prompt + new_tokens, batch * beams, dtype)
    prefill = batch * prompt * (3 * text.intermediate_size + 4 * text.hidden_size) * DTYPE_BYTES[dtype]
    encode = encode_bytes(config, batch, dtype)
    # The cache is empty while the videos are encoded; it fills during prefill.
    return Memory(weight_bytes(config, dtype, bits), max(prefill, encode - cache), cache)


def training(
    config: PllavaConfig,
    text_tokens: int,
    batch: int,
    rank: int,
    targets: Sequence[str] = TARGETS,
    dtype: str = "bfloat16",
    bits: int | None = None,
    supervised_tokens: int | None = None,
    recompute: str = "none",
) -> Memory:
    """Memory of one process's training step on `batch` clips, from stored tower features.

    Trained are the projector and LoRA of `rank` on the linear layers `targets` of each block. For its backward pass a block keeps about ten
    tensors of the hidden size (residuals, norms, queries, keys, values, output of attention; norms in fp32), three of the MLP's size, and
    those of LoRA. The projector keeps two for every patch. The gradients of the last block and the logits of the loss are added.
    recompute: the activations that gradient checkpointing does not keep, "none", "mlp" or "blocks"; those of one block exist at a time.
    """
    text, each = config.text_config, DTYPE_BYTES[dtype]
    tokens = batch * (config.num_visual_tokens + text_tokens)
    norms = 4 if each < FP32 else 0  # extra copies in fp32, in units of 2 bytes: two norms a block
    block = (10 + norms) * text.hidden_size + 3 * text.intermediate_size + len(targets) * rank
    transient = 4 * (text.intermediate_size + text.hidden_size)
    vision = config.vision_config
    patches = batch * config.num_frames * (vision.image_size // vision.patch_size) ** 2
    layers, mlp = text.num_hidden_layers, 3 * text.intermediate_size
    kept = {"none": layers * block, "mlp": layers * (block - mlp) + mlp, "blocks": layers * text.hidden_size + block}[recompute]
    activations = (tokens * (kept + transient) + patches * 2 * text.hidden_size) * each
    activations += 3 * batch * (supervised_tokens or text_tokens // 2) * text.vocab_size * FP32
    return Memory(weight_bytes(config, dtype, bits), activations, 0, 4 * FP32 * trainable_parameters(config, rank, targets))


def trainable_parameters(config: PllavaConfig, rank: int, targets: Sequence[str] = TARGETS) -> int:
    """Number of parameters of the projector and of LoRA on the linear layers `targets` in each block."""
    from pllava.model.load import expected_tensors

    layers = re.compile(rf"language_model\..*\.({'|'.join(map(re.escape, targets))})\.weight")
    shapes = [shape for name, shape in expected_tensors(config).items() if layers.fullmatch(name)]
    return sum(rank * sum(shape) for shape in shapes) + parameters(config).projector
