"""`quantization_config("4bit")` for `pllava.load` quantises the language model for QLoRA. Tower, projector and head keep their dtype.

pip install 'pllava[qlora]'
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from pllava.core.errors import PllavaError


def quantization_config(kind: str | None) -> Any:
    """transformers' BitsAndBytesConfig for a value of `model.quantization`; None for None.

    "4bit": NF4, the scales are quantised too, products are in bfloat16. "8bit": LLM.int8. Raises PllavaError without bitsandbytes or a GPU.
    """
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
