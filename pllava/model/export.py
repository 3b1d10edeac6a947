"""`pllava export BASE OUT --adapter FOLDER` writes one folder that transformers loads without this project.

AutoModelForImageTextToText.from_pretrained(out, trust_remote_code=True)      # pllava need not be installed
"""

from __future__ import annotations

import re
from pathlib import Path

from pllava.core.errors import PllavaError
from pllava.core.files import atomic_dir, atomic_write_text, read_json, write_json
from pllava.model.layouts import check_target
from pllava.model.load import load

ENTRY_POINTS = {
    "AutoConfig": "configuration.PllavaConfig",
    "AutoModelForImageTextToText": "modeling.PllavaForConditionalGeneration",
    "AutoProcessor": "processing.PllavaProcessor",
}
IMPORT = re.compile(r"^( *)from pllava\.([\w.]+) import", re.MULTILINE)
PACKAGE = Path(__file__).resolve().parents[1]


def export(
    base: str | Path, out: str | Path, adapter: str | Path | None = None, lora_alpha: float | None = None, dtype: str = "bfloat16"
) -> Path:
    """Write the weights (with LoRA merged), the processor, and the modules of this project that they need. Returns the folder."""
    check_target(Path(out), base, adapter)
    model, processor = load(base, adapter, lora_alpha, dtype=dtype, device="cpu")
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    with atomic_dir(out) as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        if model.familiarity is not None:
            model.familiarity.save(partial)
        for name, text in _modules().items():
            atomic_write_text(partial / name, text)
        for file, keys in (("config.json", ENTRY_POINTS), ("processor_config.json", {"AutoProcessor": ENTRY_POINTS["AutoProcessor"]})):
            write_json(partial / file, read_json(partial / file) | {"auto_map": keys})
    return Path(out)


def _modules() -> dict[str, str]:
    """File name -> source code of the entry points' modules and of every module they import from this project.

    The imports are rewritten for one flat folder. Raises PllavaError if two modules would have the same file name.
    """
    waiting = [f"model.{entry.split('.')[0]}" for entry in ENTRY_POINTS.values()]
    sources: dict[str, str] = {}
    origin: dict[str, str] = {}
    while waiting:
        module = waiting.pop()
        name = module.rsplit(".", 1)[-1]
        if origin.setdefault(name, module) != module:
            raise PllavaError(f"pllava.{module} and pllava.{origin[name]} can't be exported together: both would be {name}.py")
        if f"{name}.py" in sources:
            continue
        text = (PACKAGE / f"{module.replace('.', '/')}.py").read_text()
        waiting += [imported for _, imported in IMPORT.findall(text)]
        sources[f"{name}.py"] = IMPORT.sub(lambda match: f"{match[1]}from .{match[2].rsplit('.', 1)[-1]} import", text)
    return sources
