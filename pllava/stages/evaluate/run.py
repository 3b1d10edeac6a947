"""The evaluation stage: `pllava evaluate mvbench`.

Three models answer the same questions: `base` (pooling, no training), `single_frame` (the adapted model, shown one frame) and `adapted`.
First all answers are written to the prediction log, then they are scored. `pllava judge` scores stored answers again.
The stage writes outputs/evaluate/<benchmark>/results.jsonl and metrics/<benchmark>.json; a limited run writes to outputs/limited/ instead.
A killed run resumes after its last complete unit and writes the same bytes as an uninterrupted run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pllava.artifacts.answers import FILE, RESULTS, write_answers
from pllava.artifacts.metrics import METRICS, write_metrics
from pllava.artifacts.training import ADAPTER
from pllava.benchmarks.benchmark import Benchmark, Sample, load_benchmark
from pllava.benchmarks.judge import Judge, make_judge
from pllava.benchmarks.scoring import score_rows
from pllava.core.errors import PllavaError
from pllava.core.files import atomic_dir, read_json
from pllava.core.hashing import work_key
from pllava.core.progress import WorkProgress
from pllava.stages.evaluate import metrics
from pllava.stages.evaluate.distributed import answer_in_processes
from pllava.stages.evaluate.prediction_log import Answers, PredictionLog, alone, finished
from pllava.stages.evaluate.record import RECORDS, write_record
from pllava.stages.evaluate.table import show
from pllava.stages.evaluate.units import Clip, questions_of, units

if TYPE_CHECKING:
    from pllava.chat.template import Template
    from pllava.core.params import Params
    from pllava.model.processing import PllavaProcessor
    from pllava.stages.evaluate.predict import Predictor, Variant

LIMITED = Path("outputs/limited")
JOURNALS = Path(".state/evaluate")  # outside the stage's outputs, which DVC deletes before it runs the stage
MODELS = ("base", "single_frame", "adapted")
WIDTH = 100  # characters, where there is no terminal; the table of results fits


@dataclass(frozen=True)
class Job:
    """One benchmark with everything needed to answer it."""

    name: str
    benchmark: Benchmark
    samples: list[Sample]
    template: Template
    lora_alpha: float | None
    provenance: dict[str, Any]
    plan: list[list[Clip]]  # units of work, by number
    journal: Path  # prediction log; its name is a hash of everything the answers depend on

    def remaining(self) -> dict[int, int]:
        """{unit: number of its questions} for the units that are not answered yet."""
        done = finished(self.journal)
        return {number: self.size(number) for number in range(len(self.plan)) if number not in done}

    def size(self, number: int) -> int:
        """Number of questions of a unit."""
        return sum(len(questions_of(sample)) for clip in self.plan[number] for sample in clip.samples)

    def predictor(self, params: Params, variants: Sequence[Variant], processor: PllavaProcessor) -> Predictor:
        """What answers the questions with these variants of a model."""
        from pllava.stages.evaluate.predict import Predictor

        settings, size = params.evaluate.benchmarks[self.name], params.evaluate.batch_size
        frames, tokens = processor.num_frames, settings.max_new_tokens
        return Predictor(self.benchmark, variants, processor, self.template, frames, tokens, size, settings.root)

    def answer(self, predictor: Predictor, numbers: Sequence[int], label: str, console: Console) -> None:
        """Answer units and write the answers to the prediction log."""
        log = PredictionLog(self.journal)
        with WorkProgress(label, "questions", sum(map(self.size, numbers)), console) as progress:
            for number in numbers:
                log.add(number, predictor.answer(self.plan[number]))
                progress.add(self.size(number))
        log.close()

    def score(self, models: Sequence[str], judge: Judge | None, max_missing: float, folder: Path, path: Path) -> dict[str, Any]:
        """`write_scored` for the answers of the prediction log."""
        rows = Answers(self.journal, {sample.id: index for index, sample in enumerate(self.samples)}, models)
        return write_scored(rows, self.benchmark, judge, max_missing, self.provenance, folder, path)


def evaluate(params: Params, benchmark: str = "mvbench", limit: int | None = None, processes: int | None = None) -> Path:
    """Answer every question of a benchmark with every model and score the answers; returns the path of the metrics file.

    limit: answer only the first `limit` questions of each task; outputs go to outputs/limited/. processes: overrides evaluate.processes.
    Raises PllavaError when there is no adapter, no benchmark data or no such template, or when too many judgements fail.
    An unreadable video does not stop the evaluation.
    """
    console = Console(stderr=True, width=None if sys.stderr.isatty() else WIDTH)
    began = time.monotonic()
    job = make_job(params, benchmark, limit)
    judge = make_judge(params.judge) if job.benchmark.judged else None  # an incomplete judge setting fails before any question is answered
    processes = processes or params.evaluate.processes
    with alone(job.journal):
        remaining = job.remaining()
        if remaining and len(remaining) < len(job.plan):
            console.print(
                f"{benchmark}: {len(job.plan) - len(remaining)} of {len(job.plan)} units were answered before the last run ended; going on"
            )
        if remaining and processes > 1:
            answer_in_processes(params, benchmark, limit, job.journal, list(remaining), processes)
        elif remaining:
            answer_share(params, job, list(remaining), console=console)
        if unanswered := job.remaining():
            raise PllavaError(
                f"{benchmark}: {len(unanswered)} of {len(job.plan)} units have no answer. Go on with: pllava evaluate {benchmark}"
            )

        if judge:
            console.print(f"{benchmark}: scored by the {judge.name}")
        folder, path = (RESULTS / benchmark, METRICS / f"{benchmark}.json")
        if limit is not None:
            folder, path = LIMITED / benchmark, LIMITED / benchmark / "metrics.json"
        scores = job.score(MODELS, judge, params.judge.max_missing, folder, path)
        records, seconds = RECORDS if limit is None else LIMITED / "records", time.monotonic() - began
        record = write_record(benchmark, folder / FILE, path, judge, processes, seconds, sum(remaining.values()), records)
        PredictionLog(job.journal).remove()
    show(scores, console)
    if limit is None:
        _track(params, benchmark, scores, path, record)
    return path


def write_scored(
    rows: Iterable[dict[str, Any]],
    benchmark: Benchmark,
    judge: Judge | None,
    max_missing: float,
    provenance: dict[str, Any],
    folder: Path,
    path: Path,
) -> dict[str, Any]:
    """Score `rows`, write results.jsonl in `folder` and the metrics to `path`; returns the content of the metrics file.

    judge: None for a benchmark that needs no judge.
    """
    from pllava.benchmarks.judge.offline import OfflineJudge

    judge = judge or OfflineJudge()  # a benchmark that needs no judge never calls it

    with atomic_dir(folder) as partial:
        scored = score_rows(rows, benchmark, judge, max_missing)
        content = metrics.build(write_answers(partial / FILE, scored), provenance, benchmark, judge)
    write_metrics(path, content)
    return content


def answer_share(
    params: Params, job: Job, numbers: Sequence[int], rank: int = 0, world: int = 1, device: Any = "auto", console: Console | None = None
) -> None:
    """Answer the units `numbers[rank::world]` and write the answers to the prediction log.

    numbers: the same list in every process. A process must not compute the list itself, because the remaining units change meanwhile.
    """
    console = console or Console(stderr=True, quiet=rank > 0)
    if mine := numbers[rank::world]:
        label = f"{job.name}, process 1 of {world}" if world > 1 else job.name
        job.answer(_predictor(params, job, device, console), mine, label, console)


def make_job(params: Params, name: str, limit: int | None = None, journal: Path | None = None) -> Job:
    """Load and check everything that a benchmark's evaluation needs.

    journal: path of the prediction log, given to worker processes so that they need not hash the data again; None: compute the path.
    Raises PllavaError when there is no adapter, no benchmark data or no such template, or when a question can't be asked.
    """
    settings = params.evaluate.benchmarks[name]
    if not (ADAPTER / "manifest.json").is_file():
        raise PllavaError(f"{ADAPTER}/manifest.json is not there: no adapter is trained yet. Run: pllava train")
    benchmark, samples, template = load_questions(params, name, limit)
    chosen = params.evaluate.lora_alpha if settings.lora_alpha is None else settings.lora_alpha
    lora_alpha = read_json(ADAPTER / "adapter_config.json")["lora_alpha"] if chosen is None else chosen
    plan = units(samples, params.evaluate.batch_size)
    provenance: dict[str, Any] = {}
    if journal is None:
        provenance = metrics.provenance(params, name, benchmark, samples, template, ADAPTER, lora_alpha, limit or settings.limit)
        journal = JOURNALS / name / f"{work_key(**provenance)}.ledger"
    return Job(name, benchmark, samples, template, lora_alpha, provenance, plan, journal)


def load_questions(params: Params, name: str, limit: int | None, base: str | None = None) -> tuple[Benchmark, list[Sample], Template]:
    """(benchmark, its questions, its template). base: the model's, whose own template it may be; None: model.base.

    Raises PllavaError for questions that can't be asked: none, two with one id, a prompt the template can't hold, or broken text.
    """
    from pllava.chat.template import load_template

    settings = params.evaluate.benchmarks[name]
    benchmark, template = load_benchmark(name, settings.source), load_template(settings.template, base or params.model.base)
    samples = benchmark.samples(settings.root, limit or settings.limit)
    if not samples:
        raise PllavaError(f"{benchmark.title}: no question there. Check evaluate.benchmarks in params.yaml")
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise PllavaError(f"{benchmark.title}: two questions have the id {sample.id!r}. Answers are kept by id; give each its own")
        seen.add(sample.id)
        try:
            for question in questions_of(sample):
                template.prompt_for(prompt := benchmark.prompt(question))
                f"{prompt}{sample.answer}{sample.media}".encode()
        except PllavaError as error:
            raise PllavaError(f"{sample.id}: {error}") from None
        except UnicodeEncodeError as error:  # a lone surrogate, which JSON allows
            surrogate = error.object[error.start : error.end]
            raise PllavaError(f"{sample.id}: {surrogate!r} is half a character, which is no text. Mend the annotation") from None
    return benchmark, samples, template


def _predictor(params: Params, job: Job, device: Any, console: Console) -> Predictor:
    """Load the model once and build the three variants that share its weights."""
    from pllava.model.load import load
    from pllava.stages.evaluate.predict import Variant

    options = params.model.load_options()
    model, processor = load(params.model.base, adapter=ADAPTER, lora_alpha=job.lora_alpha, device=device, **options)
    base = Variant("base", model, within=model.disable_adapter)  # the variants share one set of weights
    variants = [base, Variant("single_frame", model, single_frame=True), Variant("adapted", model)]
    console.print(f"device {model.device}, {model.dtype}, {params.model.attn_implementation} attention")
    return job.predictor(params, variants, processor)


def _track(params: Params, benchmark: str, scores: dict[str, Any], path: Path, record: Path) -> None:
    """Log averages, task scores and the files to the MLflow run of the training. An unreachable MLflow is no error."""
    from pllava.tracking.runs import later_stage

    with later_stage(params) as run:
        for model, entry in scores["models"].items():
            values = {"average": entry["average"], **entry["tasks"]}
            run.log_metrics({f"{benchmark}/{model}/{task}": cell["value"] for task, cell in values.items() if cell["value"] is not None})
        if judge := scores["provenance"]["judge"]:
            run.set_tags({f"scored_by.{benchmark}": judge["name"]})
        run.log_artifacts(path, "metrics")
        run.log_artifacts(RESULTS / benchmark, f"evaluate/{benchmark}")
        run.log_artifacts(record, "evaluate")
