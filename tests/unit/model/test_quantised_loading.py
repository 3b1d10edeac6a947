"""Quantisation packs the language model alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from loaded import cpu
from transformers import BitsAndBytesConfig
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils.quantization_config import QuantizationConfigMixin

from pllava.model.load import language_model_only


@register_quantization_config("whole-numbers")
class WholeNumbersConfig(QuantizationConfigMixin):
    """Stands for 8-bit packing, whose packages need a GPU: weights become whole hundredths."""

    def __init__(self, modules_to_not_convert: list[str] | None = None, **_: Any) -> None:
        self.quant_method, self.modules_to_not_convert = "whole-numbers", modules_to_not_convert


@register_quantizer("whole-numbers")
class WholeNumbers(HfQuantizer):
    requires_calibration = False
    is_trainable = False

    def is_serializable(self) -> bool:
        return False

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> None:
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and should_convert_module(name, self.quantization_config.modules_to_not_convert):
                module.weight.data = (module.weight.data * 100).round() / 100


@pytest.mark.parametrize("config", [WholeNumbersConfig(), {"quant_method": "whole-numbers"}], ids=["config", "dict"])
def test_quantisation_packs_the_language_model_alone(config: Any, tiny_base_dir: Path, tiny_model: Any) -> None:
    packed = dict(cpu(tiny_base_dir, quantization_config=config).named_modules())
    linear = {name: module for name, module in tiny_model.named_modules() if isinstance(module, torch.nn.Linear)}
    changed = {name for name, module in linear.items() if not module.weight.equal(packed[name].weight)}
    assert changed == {name for name in linear if name.startswith("model.language_model.")}


@pytest.mark.parametrize("bits", [{"load_in_8bit": True}, {"load_in_4bit": True}])
def test_bitsandbytes_spares_tower_projector_and_head_beside_what_the_user_spares(bits: dict[str, bool], tiny_model: Any) -> None:
    config = language_model_only(BitsAndBytesConfig(llm_int8_skip_modules=["model.language_model.layers.0"], **bits))
    names = [name for name, module in tiny_model.named_modules() if isinstance(module, torch.nn.Linear)]
    converted = {name for name in names if should_convert_module(name, config.llm_int8_skip_modules)}
    assert converted == {name for name in names if re.match(r"model\.language_model\.layers\.[12]\.", name)}
