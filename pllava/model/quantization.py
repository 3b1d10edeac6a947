"""QLoRA's base: `quantization_config("4bit")` for `pllava.load`, which packs the language model and leaves tower, projector and head alone.

pip install 'pllava[qlora]'
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from pllava.core.errors import PllavaError


def quantization_config(kind: str | None) -> Any:
    """transformers' BitsAndBytesConfig of `model.quantization` ("4bit": NF4, scales packed too, products in bfloat16; "8bit": LLM.int8),
    None for None. Raises PllavaError without bitsandbytes or a GPU."""
    if kind is None:
        return None
    if find_spec("bitsandbytes") is None:
        raise PllavaError(f"model.quantization {kind} needs bitsandbytes: pip install 'pllava[qlora]', or set it to null in params.yaml")
    import torch
    from transformers import BitsAndBytesConfig

    if not torch.cuda.is_available():
        raise PllavaError(f"model.quantization {kind} needs a GPU, and torch sees none here. Set it to null in params.yaml")
    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",  # for weights that are normally distributed (QLoRA, arXiv 2305.14314)
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
