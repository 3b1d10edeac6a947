"""`import pllava` is enough for transformers' Auto classes, in whatever order things are imported, and costs nothing by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


def run(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_importing_pllava_imports_nothing_heavy() -> None:
    assert run("import sys, pllava; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])").strip() == "[]"


@pytest.mark.parametrize(
    "imports",
    [
        "import pllava; from transformers import LlavaConfig, AutoConfig, AutoProcessor, AutoModelForImageTextToText",
        "from transformers import AutoModelForImageTextToText, AutoProcessor, AutoConfig; import pllava",
        "import pllava.model.modeling; from transformers import AutoModelForImageTextToText, AutoProcessor, AutoConfig",
    ],
)
def test_the_auto_classes_know_pllava_whatever_is_imported_first(imports: str, tiny_base_dir: Path) -> None:
    code = f"""{imports}
import sys
print(type(AutoProcessor.from_pretrained(sys.argv[1])).__name__, type(AutoModelForImageTextToText.from_pretrained(sys.argv[1])).__name__)
print(type(AutoConfig.for_model("pllava")).__name__)
"""
    assert run(code, tiny_base_dir).split() == ["PllavaProcessor", "PllavaForConditionalGeneration", "PllavaConfig"]
