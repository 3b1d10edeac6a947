"""An adapter folder as an MLflow model: adapter, the base when it is small, the code that runs it, and a signature. No pickle.

    model/MLmodel, pyfunc.py, code/pllava/, artifacts/adapter/, artifacts/base/ (a base of at most CARRIED bytes), model_card.md

A larger base is not copied: the model names its hub id or folder and loads the base from there.
"""

from __future__ import annotations

import shutil
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from pllava.core.params import Params

CARRIED = 64 << 20  # bytes; the built-in base has 8 MB, the base of the 7B model 14 GB
ADAPTER, BASE = "artifacts/adapter", "artifacts/base"  # in the model's folder
NEEDED = (
    *("torch", "transformers", "peft", "accelerate", "safetensors", "huggingface-hub", "decord2", "av", "pillow", "numpy"),
    *("pydantic", "pyyaml", "filelock", "typer", "rich"),
)


def package(params: Params, adapter: Path, base: str, target: Path) -> None:
    """Write the model folder `target`, which must not exist yet. base: a folder or a hub id."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    home = Path(__file__).resolve().parents[1]
    staged = target.with_name("staged")
    code = shutil.copytree(home, staged / "pllava", ignore=shutil.ignore_patterns("project", "__pycache__"))  # answers need no flows
    artifacts = {"adapter": str(shutil.copytree(adapter, staged / "adapter"))}
    settings: dict[str, Any] = {"template": template_of(params, adapter), "lora_alpha": params.evaluate.lora_alpha}
    settings |= {"dtype": params.model.dtype, "device": "auto", "base": None}
    if carried(base):
        artifacts["base"] = str(shutil.copytree(base, staged / "base"))
    else:
        settings["base"] = str(Path(base).resolve()) if Path(base).is_dir() else base
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example.*")  # an input example would run the model; the signature is explicit
        mlflow.pyfunc.save_model(
            target,
            python_model=str(home / "registry" / "pyfunc.py"),
            artifacts=artifacts,
            code_paths=[str(code)],
            model_config=settings,
            pip_requirements=requirements(),
            signature=ModelSignature(
                Schema(
                    [
                        ColSpec("string", "video"),
                        ColSpec("string", "question"),
                        ColSpec("double", "start", required=False),
                        ColSpec("double", "end", required=False),
                    ]
                ),
                Schema([ColSpec("string")]),
                ParamSchema([ParamSpec("max_new_tokens", "long", 100)]),
            ),
        )
    shutil.rmtree(staged)


def carried(base: str) -> bool:
    """Whether the base is a folder of at most CARRIED bytes, so that each version holds a copy."""
    folder = Path(base)
    return folder.is_dir() and sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= CARRIED


def template_of(params: Params, adapter: Path) -> str:
    """The conversation template of the adapter's training: a name, or the absolute path of a template file."""
    config = adapter / "config.yaml"
    template = (yaml.safe_load(config.read_text()) or {}).get("template") if config.is_file() else None
    name = str(template or params.model.template)
    return str(Path(name).resolve()) if Path(name).is_file() else name


def requirements() -> list[str]:
    """Pinned versions of the packages that answering needs, without the suffix of local builds ("2.13.0+cpu" -> "2.13.0")."""
    pins = []
    for name in ("mlflow", *NEEDED):
        try:
            pins.append(f"{name}=={version(name).split('+')[0]}")
        except PackageNotFoundError:
            continue
    return pins
