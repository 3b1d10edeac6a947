"""`metrics/<benchmark>.json`: accuracy of each model with intervals, and everything the numbers depend on.

It is tracked by git and by DVC, so equal runs are equal bytes: no time, no commit, no path of a machine. Those are tags of the MLflow run.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pllava.evaluate.mvbench import Sample, data_sha256
from pllava.evaluate.statistics import Bootstrap, bootstrap
from pllava.files import read_json, sha256_file

if TYPE_CHECKING:
    from pllava.chat.template import Template
    from pllava.params import Params

PREPARED = Path("data/prepared/test.parquet")
PACKAGES = ("pllava", "torch", "transformers", "tokenizers", "peft", "numpy", "pillow", "decord2", "av")


def provenance(
    params: Params, benchmark: str, samples: Sequence[Sample], template: Template, adapter: Path, lora_alpha: float | None, frame_rule: str
) -> dict[str, Any]:
    """What the answers are a function of. `lora_alpha`: the strength in use, not the setting (which may say "as trained")."""
    settings = params.evaluate.benchmarks[benchmark]  # type: ignore[index]
    manifest = read_json(adapter / "manifest.json")
    return {
        "benchmark": benchmark,
        "base": params.model.base,
        "base_sha256": manifest.get("base_sha256"),
        "adapter_sha256": manifest["adapter_sha256"],
        "lora_alpha": lora_alpha,
        "data_sha256": data_sha256(settings.root, list(samples), _known_media(benchmark)),
        "template": settings.template,
        "template_sha256": template.sha256,
        "max_new_tokens": settings.max_new_tokens,
        "num_frames": params.model.num_frames,
        "pooling_shape": list(params.model.pooling_shape),
        "frame_rule": frame_rule,
        "dtype": params.model.dtype,
        "batch_size": params.evaluate.batch_size,
        "seed": params.seed,
        "bootstrap_resamples": params.evaluate.bootstrap_resamples,
        "n_questions": len(samples),
        "versions": {name: version(name) for name in PACKAGES},
    }


def build(rows: Sequence[dict[str, Any]], provenance: dict[str, Any]) -> dict[str, Any]:
    """The content of the metrics file; values in 0..1, intervals of 95 %. `unreadable` lists media that counted as wrong."""
    unreadable = sorted({row["media"] for row in rows if row["error"] is not None})
    found = bootstrap(rows, provenance["bootstrap_resamples"], provenance["seed"])
    return {
        "benchmark": provenance["benchmark"],
        "provenance": provenance | {"unreadable": unreadable},
        "models": {model: _model(found, model) for model in found.models},
    }


def _model(found: Bootstrap, model: str) -> dict[str, Any]:
    tasks = {
        task: _rounded(found.task(model, task).as_dict()) | {"n": entry.n, "chance": round(entry.chance, 6)}
        for task, entry in found.tasks.items()
    }
    return {"average": _rounded(found.average(model).as_dict()), "tasks": tasks}


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}


def _known_media(benchmark: str) -> dict[str, str]:
    """{media path: sha256} as `prepare` recorded it; nothing when it has not run."""
    if not PREPARED.is_file():
        return {}
    from pllava.data.manifest import read_test_rows

    return {row.media: row.media_sha256 for row in read_test_rows(PREPARED) if row.benchmark == benchmark}


def code_sha256() -> str:
    """Hash of the source that makes the answers: an interrupted run is only continued by the code that began it."""
    import hashlib

    package = Path(__file__).resolve().parents[1]
    files = sorted(
        f for room in ("model", "video", "chat", "evaluate") for f in (package / room).rglob("*") if f.suffix in (".py", ".yaml")
    )
    return hashlib.sha256("\n".join(f"{f.relative_to(package).as_posix()} {sha256_file(f)}" for f in files).encode()).hexdigest()
