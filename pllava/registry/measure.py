"""Score any model on the benchmarks of the params: `pllava evaluate --model models:/pllava@champion`.

The model is a registered version, an adapter folder, a base folder or a hub id. Results go to
outputs/measured/<model>/<benchmark>/{results.jsonl,metrics.json}; the outputs of the stage `evaluate` are not changed. Results of a
registered version are also stored with the version, where the gate reads the champion's scores on the current test set. A killed run
resumes after its last complete unit.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pllava.artifacts.answers import FILE
from pllava.benchmarks.judge import make_judge
from pllava.core.errors import PllavaError
from pllava.core.hashing import work_key
from pllava.stages.evaluate import metrics
from pllava.stages.evaluate import run as runner
from pllava.stages.evaluate.predict import Variant
from pllava.stages.evaluate.prediction_log import PredictionLog, alone
from pllava.stages.evaluate.record import write_record
from pllava.stages.evaluate.table import show
from pllava.stages.evaluate.units import units

if TYPE_CHECKING:
    from pllava.chat.model_ref import ModelRef
    from pllava.core.params import Params

MEASURED = Path("outputs/measured")
JOURNALS = Path(".state/measure")
NAME = "adapted"  # model name in the results, as the gate and `evaluate compare` expect it
HASHED = 1 << 30  # bytes; larger weights are identified by name, because hashing them takes long


@dataclass(frozen=True)
class Loaded:
    """A loaded model with the identity of its weights."""

    model: Any
    processor: Any
    source: ModelRef
    identity: dict[str, str | None]  # model, base_sha256, adapter_sha256, revision
    lora_alpha: float | None  # as loaded; None: there is no LoRA


def measure(
    params: Params,
    model: str,
    benchmarks: Sequence[str],
    limit: int | None = None,
    lora_alpha: float | None = None,
    adapter: str | None = None,
    output: Path | None = None,
) -> list[Path]:
    """Score a model on `benchmarks`; returns the paths of the metrics files, one for each benchmark.

    lora_alpha: overrides the benchmark's, evaluate.lora_alpha and the trained strength. limit: answer only the first `limit` questions
    of each task; outputs go to outputs/limited/.
    Raises PllavaError when there is no such model or no benchmark data, when `lora_alpha` is set for a model without LoRA, or when too
    many judgements fail.
    """
    from pllava.registry.default_model import choose

    console = Console(stderr=True, width=None if sys.stderr.isatty() else runner.WIDTH)
    source = choose(params, model, adapter)
    loaded = _load(source)
    named = f"{params.registry.model_name}-{source.version}" if source.version else model
    if lora_alpha is not None and loaded.lora_alpha is None:
        raise PllavaError(f"{named} has no LoRA, so --lora-alpha {lora_alpha:g} would change nothing. Leave it away, or give --adapter")
    folder = output or (MEASURED if limit is None else runner.LIMITED) / re.sub(r"[^\w.-]+", "-", named).strip("-.")
    written = []
    for name in benchmarks:
        path, results = _measure(params, loaded, name, limit, lora_alpha, folder, console)
        if source.version is not None and lora_alpha is None:
            _keep(params, source.version, name, path, results, console)
        written.append(path)
    return written


def _measure(
    params: Params, loaded: Loaded, name: str, limit: int | None, alpha: float | None, folder: Path, console: Console
) -> tuple[Path, Path]:
    from pllava.model.adapter import set_lora_alpha

    began = time.monotonic()
    settings = params.evaluate.benchmarks[name]
    benchmark, samples, template = runner.load_questions(params, name, limit, _as_loaded(params, loaded).base)
    judge = make_judge(params.judge) if benchmark.judged else None
    if loaded.lora_alpha is None:
        alpha = None
    else:
        chosen = (alpha, settings.lora_alpha, params.evaluate.lora_alpha, loaded.lora_alpha)
        alpha = next(value for value in chosen if value is not None)
        set_lora_alpha(loaded.model, alpha)
    shown = params.model_copy(update={"model": _as_loaded(params, loaded)})
    provenance = metrics.provenance(shown, name, benchmark, samples, template, None, alpha, limit or settings.limit) | loaded.identity
    journal, plan = JOURNALS / name / f"{work_key(**provenance)}.ledger", units(samples, params.evaluate.batch_size)
    job = runner.Job(name, benchmark, samples, template, alpha, provenance, plan, journal)
    with alone(journal):
        if remaining := job.remaining():
            job.answer(job.predictor(params, [Variant(NAME, loaded.model)], loaded.processor), list(remaining), name, console)
        path, results = folder / name / "metrics.json", folder / name / FILE
        scores = job.score((NAME,), judge, params.judge.max_missing, results.parent, path)
        write_record(name, results, path, judge, 1, time.monotonic() - began, sum(remaining.values()), folder / "records")
        PredictionLog(journal).remove()
    show(scores, console)
    return path, results


def _load(source: ModelRef) -> Loaded:
    from pllava.model.adapter import get_lora_alpha

    chat = source.load()
    identity: dict[str, str | None] = {"model": source.name, "revision": None, "base": source.base, "adapter_sha256": source.adapter_sha256}
    identity["base_sha256"] = source.lineage.get("base_sha256") or _weights(Path(source.base))
    if not Path(source.base).is_dir():
        identity["revision"] = _revision(source.base)
    if source.adapter and source.adapter_sha256 is None:
        identity["adapter_sha256"] = _weights(Path(source.adapter))
    return Loaded(chat.model, chat.processor, source, identity, get_lora_alpha(chat.model))


def _as_loaded(params: Params, loaded: Loaded) -> Any:
    """The section `model` of the params with the values of the loaded model."""
    model, processor = loaded.model, loaded.processor
    return params.model.model_copy(
        update={
            "base": loaded.source.base,
            "num_frames": processor.num_frames,
            "pooling_shape": tuple(processor.pooling_shape),
            "pooling_method": model.config.pooling_method,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "attn_implementation": loaded.source.attn_implementation,
        }
    )


def _weights(folder: Path) -> str | None:
    """One hash of the weight files of a folder; None when there are none or when they are larger than HASHED."""
    from pllava.model.adapter import base_sha256

    files = list(folder.glob("*.safetensors")) if folder.is_dir() else []
    return base_sha256(folder) if files and sum(file.stat().st_size for file in files) <= HASHED else None


def _revision(hub_id: str) -> str | None:
    """The commit of a hub repository in the local cache; None when the cache has no such repository."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(hub_id, "config.json")
    return Path(config).parent.name if isinstance(config, str) else None


def _keep(params: Params, number: int, benchmark: str, path: Path, results: Path, console: Console) -> None:
    """Store the results with the registered version, where the gate reads them."""
    from pllava.registry.measurements import keep
    from pllava.registry.versions import pick
    from pllava.tracking.store import client

    connection = client()
    version = pick(connection, params.registry.model_name, number)
    if not version.run_id:
        raise PllavaError(f"version {number} of {params.registry.model_name} has no run to keep its scores with; they are in {path}")
    keep(connection, version, version.run_id, benchmark, path, results)
    console.print(f"{benchmark}: kept with version {number} of {params.registry.model_name}; the gate finds it there")
