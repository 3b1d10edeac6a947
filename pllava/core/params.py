"""`params.yaml`, typed: `python -c "from pllava.core.params import load_params; print(load_params())"`.

One pydantic class a section. Unknown keys are refused with the nearest known name, and all problems are reported together.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from pllava.core import plugins
from pllava.core.errors import PllavaError
from pllava.core.validation import problems

PARAMS_FILE = "params.yaml"
NAME = r"^[^\s/:@'][^/:@']*$"  # characters that MLflow's names and addresses allow


def _known(built_in: Sequence[str], group: str) -> list[JsonValue]:
    """Built-in names and names of the installed entry points of `group`, sorted. The settings form shows them as choices."""
    return [*sorted({*built_in, *plugins.names(group)})]


def _one_of(name: str, choices: Sequence[JsonValue]) -> str:
    """`name` when it is one of `choices`. Raises ValueError that names the nearest choice."""
    known = [str(choice) for choice in choices]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        raise ValueError(f"{name!r} is unknown; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"))
    return name


POOLINGS = _known(("avg",), "pllava.poolings")
SAMPLERS = _known(("middle", "rand"), "pllava.samplers")
JUDGES = _known(("auto", "endpoint", "offline"), "pllava.judges")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Rendered(Section):
    """The built-in corpus: seeded clips of moving shapes in the formats of VideoChat2-IT and MVBench."""

    enabled: bool = True
    root: Path = Field(Path("data/raw/rendered"), description="where the clips and annotations are written")
    instruction_clips: int = Field(2000, ge=0, description="training clips; more clips, less overfitting, longer `render` and `features`")
    validation_clips: int = Field(100, ge=0, description="clips for the validation loss")
    test_clips_per_task: int = Field(50, ge=1, description="MVBench clips for each task; the 95 % interval narrows with its root")
    size: int = Field(128, ge=32, le=1024, multiple_of=2, description="width and height in pixels")
    num_frames: int = Field(24, ge=8, le=600)
    fps: int = Field(12, ge=1, le=60)


class Corpus(Section):
    """One instruction corpus: a VideoChat2-IT annotation file and the root its media paths are relative to."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="opens the ids of its rows, and names its reports")
    kind: Literal["video", "image", "text"] = Field("video", description="text: rows without media, which keep the language")
    annotations: Path
    media: Path = Field(Path(), description="root of the media; none for text")
    weight: float = Field(1.0, gt=0, le=100, description="share of its rows that is taken; 2 takes each row twice, with other frames")
    max_rows: int | None = Field(None, ge=1, description="the most rows taken, after the weight; a higher cap keeps those of a lower one")

    @model_validator(mode="after")
    def _media_fit_the_kind(self) -> Corpus:
        if self.kind == "text" and self.media != Path():
            raise ValueError(f"corpus {self.name!r} of kind text takes no media, found {self.media}")
        if self.kind != "text" and "media" not in self.model_fields_set:
            raise ValueError(f"corpus {self.name!r} of kind {self.kind} needs media, the folder its paths begin in")
        return self


class Data(Section):
    train: list[Corpus] = []
    validation: list[Corpus] = []
    max_bad_fraction: float = Field(0.0, ge=0, le=1, description="`prepare` stops when more than this share of rows is unusable")
    max_seconds: float | None = Field(None, gt=0, description="longer clips are quarantined: a few frames of an hour show little of it")
    workers: int = Field(2, ge=1, description="processes that check and decode media")
    prefetch: int = Field(2, ge=1, description="micro-batches each of them makes ahead in training; costs memory, hides slow clips")


class Model(Section):
    base: str = Field(description="image-language model to start from: a folder or a hub id")
    num_frames: int = Field(16, ge=1, description="frames sampled from a clip; more see finer motion, cost grows with them")
    pooling_shape: tuple[int, int, int] = Field(
        (16, 12, 12),
        description="(T, H, W) of the visual tokens after adaptive average pooling; temporal pooling hurts (paper, section 3.3)",
    )
    pooling_method: str = Field(
        "avg", json_schema_extra={"enum": POOLINGS}, description="avg, as in every released model, or an entry point of pllava.poolings"
    )
    template: str = Field(
        "vicuna", description="conversation template of training and chat: a name in pllava/chat/templates or a .yaml file"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    quantization: Literal["4bit", "8bit"] | None = Field(
        None, description="pack the base's language model while training (QLoRA): less memory, slower; needs a GPU and pllava[qlora]"
    )

    def load_options(self) -> dict[str, Any]:
        """The settings as keyword arguments of `pllava.load`."""
        names = ("num_frames", "pooling_shape", "pooling_method", "dtype", "attn_implementation")
        return {name: getattr(self, name) for name in names}

    @field_validator("pooling_method")
    @classmethod
    def _known_pooling(cls, name: str) -> str:
        return _one_of(name, POOLINGS)

    @model_validator(mode="after")
    def _pooling_fits(self) -> Model:
        if min(self.pooling_shape) < 1:
            raise ValueError(f"pooling_shape {self.pooling_shape} must be at least 1 in every dimension")
        if self.pooling_shape[0] > self.num_frames:
            raise ValueError(f"pooling_shape[0] = {self.pooling_shape[0]} is more than num_frames = {self.num_frames}")
        return self


class Features(Section):
    enabled: bool | Literal["auto"] = Field(
        "auto", description="encode each clip once before training; costs disk, saves the tower in every step. auto: when it pays"
    )
    dtype: Literal["float32", "bfloat16"] = "float32"
    processes: int = Field(1, ge=1, description="processes that encode, one a GPU; on a CPU one keeps every core busy")


class Lora(Section):
    r: int = Field(128, ge=1, description="rank; more learns more, costs memory")
    alpha: float = Field(32, gt=0, description="the update is scaled by alpha / r")
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: list[str] = Field(["q_proj", "v_proj"], min_length=1, description="linear layers of the language model")


class Train(Section):
    steps: int | None = Field(None, ge=1, description="optimiser steps; this or epochs")
    epochs: float | None = Field(None, gt=0, description="passes over the training rows, in place of steps; 0.5 is half of one")
    init_from: str | None = Field(
        None, description="go on from an adapter, ours or published: a folder, a hub id, models:/NAME@champion. None: fresh LoRA"
    )
    batch_size: int = Field(ge=1, description="clips in a step, over all processes and accumulation")
    gradient_accumulation: int = Field(1, ge=1, description="micro-batches in a step: less memory, same update")
    learning_rate: float = Field(2e-5, gt=0)
    min_lr_ratio: float = Field(0.25, ge=0, le=1, description="floor of the cosine, as a share of the peak; also where warm-up starts")
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.02, ge=0, description="none on biases and 1-D parameters")
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(512, ge=16, description="text tokens; longer conversations are cut")
    sampling: str = Field(
        "rand",
        json_schema_extra={"enum": SAMPLERS},
        description="frame taken from each interval: middle, rand, or an entry point of pllava.samplers",
    )
    turns: Literal["conversation", "independent"] = Field(
        "conversation",
        description="conversation: later turns see earlier ones. independent: the questions of a clip share it without seeing each other",
    )
    packing: bool = Field(False, description="the clips of a micro-batch in one row, unseen by each other: no padding, the same loss")
    gradient_checkpointing: Literal["none", "mlp", "blocks"] = Field(
        "none", description="compute again instead of keep: mlp, half the activations for a few % of time; blocks, most for a third"
    )
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    log_every: int = Field(10, ge=1)
    accelerate: Path | None = Field(
        None,
        description="accelerate's config: processes, DDP, FSDP2, DeepSpeed (recipes/accelerate); None: one a GPU, one on CPU",
    )
    validate_every: int = Field(500, ge=1, description="steps between two validation losses; there is one before the first step too")
    early_stopping: int | None = Field(None, ge=1, description="end after so many validations in a row without a new best loss")
    adapter: Literal["last", "best"] = Field(
        "last", description="which becomes outputs/train/adapter; best: of the lowest validation loss. The other is kept beside it"
    )
    checkpoint_every: int = Field(500, ge=1, description="steps between two checkpoints: what a kill can cost, against the time of writing")
    keep_checkpoints: int = Field(2, ge=1, description="the last so many stay; each is three times the adapter")
    max_bad_fraction: float = Field(
        0.01, ge=0, le=1, description="clips that cannot be read are replaced and counted; more than this share of the rows ends the run"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; fixed so that two runs give the same bytes")
    lora: Lora = Lora()

    @model_validator(mode="after")
    def _batch_divides(self) -> Train:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"one of steps and epochs says how long to train, found steps {self.steps} and epochs {self.epochs}")
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of gradient_accumulation {self.gradient_accumulation}")
        return self

    @field_validator("sampling")
    @classmethod
    def _known_sampling(cls, name: str) -> str:
        return _one_of(name, SAMPLERS)

    def total_steps(self, rows: int) -> int:
        """Optimiser steps of a run: `steps`, or the steps that `epochs` passes over this many rows take."""
        if self.steps is not None:
            return self.steps
        return max(1, round((self.epochs or 1.0) * (rows // self.batch_size)))


class Benchmark(Section):
    root: Path = Field(description="data root in the benchmark's published layout")
    template: str = Field(description="conversation template: a name in pllava/chat/templates or a .yaml file")
    max_new_tokens: int = Field(100, ge=1)
    limit: int | None = Field(None, ge=1, description="only the first so many questions of each task")
    lora_alpha: float | None = Field(None, ge=0, description="LoRA strength for this benchmark; None: that of evaluate.lora_alpha")
    source: Path | None = Field(None, description="a Python file with a BENCHMARK of your own; None: the shipped one of this name")


class Evaluate(Section):
    lora_alpha: float | None = Field(
        None, ge=0, description="LoRA strength at inference; None: as trained. The paper's best: 4 (VCG) to 20 (MVBench) of 32"
    )
    batch_size: int = Field(16, ge=1, description="questions generated at once")
    bootstrap_resamples: int = Field(2000, ge=100)
    processes: int = Field(1, ge=1, description="processes that share the questions, by accelerate; one a GPU. The result is the same")
    benchmarks: dict[str, Benchmark] = Field({}, description="name of a published benchmark, or any name for a test set of your own")

    @field_validator("benchmarks")
    @classmethod
    def _known_benchmarks(cls, benchmarks: dict[str, Benchmark]) -> dict[str, Benchmark]:
        known = plugins.names("pllava.benchmarks")
        for name, benchmark in benchmarks.items():
            if not re.fullmatch(r"[A-Za-z0-9_]+", name):
                raise ValueError(f"the name {name!r} must be letters, digits and underscores: a DVC stage and files bear it")
            if benchmark.source is None and name not in known and (near := difflib.get_close_matches(name, known, n=1, cutoff=0.75)):
                raise ValueError(f"unknown benchmark {name!r}; did you mean {near[0]!r}? A test set of your own needs a name less like it")
        return benchmarks


class Judge(Section):
    """The language model that scores open answers. Where it is comes from the environment: PLLAVA_JUDGE_BASE_URL, _MODEL, _API_KEY."""

    kind: str = Field(
        "auto",
        json_schema_extra={"enum": JUDGES},
        description="auto: the endpoint of the environment, else the offline scorer; or an entry point of pllava.judges",
    )

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, name: str) -> str:
        return _one_of(name, JUDGES)

    max_missing: float = Field(0.02, ge=0, le=1, description="a run with a larger share of failed judgements fails; none counts as 0")
    concurrency: int = Field(8, ge=1, le=256, description="requests at once")
    attempts: int = Field(5, ge=1, description="tries of one request before its judgement is missing")
    backoff_seconds: float = Field(1.0, ge=0, description="wait before the second try; doubles with each, and a random part is taken")
    timeout_seconds: float = Field(60.0, gt=0, description="of one request")
    max_tokens: int = Field(200, ge=16, description="length of a reply")
    length_parameter: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="what the endpoint calls it; a refusal that names one is answered with the other"
    )
    temperature: float | None = Field(0, ge=0, le=2, description="None: it is not sent, for an endpoint that takes its own only")
    price_per_million_tokens: tuple[float, float] = Field((0.0, 0.0), description="(read, written), in your currency: the cost is counted")


class Registry(Section):
    experiment: str = Field("pllava", pattern=NAME)
    model_name: str = Field("pllava", pattern=NAME, description="as in models:/NAME@champion")


class Gate(Section):
    margin: float = Field(0.01, ge=0, le=1, description="how much below the champion's average a candidate may be")
    min_average: float = Field(0.0, ge=0, le=1, description="floor for a first champion")
    significance: float = Field(
        0.05, ge=0, le=1, description="a candidate the paired test finds worse at this level fails, also within the margin; 0: no test"
    )


class Deploy(Section):
    host: str = Field("127.0.0.1", description="loopback unless you know better")
    port: int = Field(7860, ge=1, le=65535)
    timeout_seconds: int = Field(120, ge=5)


class Run(Section):
    stop_seconds: int = Field(
        300,
        ge=1,
        le=86400,
        description="how long a stage that is told to end may take before it is killed. Longer than the longest step, else a training "
        "loses what it did since its last checkpoint; a stage that hangs is waited for as long",
    )


class Params(Section):
    seed: int = Field(0, ge=0, lt=2**31)
    rendered: Rendered = Rendered(enabled=False)
    data: Data
    model: Model
    features: Features = Features()
    train: Train
    evaluate: Evaluate
    judge: Judge = Judge()
    registry: Registry = Registry()
    gate: Gate = Gate()
    deploy: Deploy = Deploy()
    run: Run = Run()

    @model_validator(mode="after")
    def _sections_fit(self) -> Params:
        kind, train = self.model.attn_implementation, self.train
        if train.packing and kind == "eager":
            raise ValueError("train.packing needs model.attn_implementation sdpa (or flash_attention_2 on a GPU), found eager")
        if train.early_stopping and not self.data.validation:
            raise ValueError("train.early_stopping goes by the validation loss: name a corpus in data.validation")
        if train.adapter == "best" and not self.data.validation:
            raise ValueError("train.adapter best goes by the validation loss: name a corpus in data.validation")
        if train.turns == "independent" and kind == "flash_attention_2":
            raise ValueError(
                "train.turns independent needs a mask, which flash_attention_2 does not take: set model.attn_implementation sdpa"
            )
        return self


def load_params(path: str | Path = PARAMS_FILE) -> Params:
    """Read and check a params file. Raises PllavaError that lists every problem with its key."""
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_bytes())  # bytes: for text that is not UTF-8, YAML reports the line
    except FileNotFoundError:
        raise PllavaError(f"{path} is not there, and this needs a project. Go to its folder, or make one: pllava init FOLDER") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also too many digits, or nested too deeply
        raise PllavaError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise PllavaError(f"{path} holds {type(raw).__name__}, a mapping is needed. Write one: pllava recipe use tiny")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = problems(error, Params)
        raise PllavaError(f"{path}: {len(lines)} problem(s)\n" + "\n".join(f"  {line}" for line in lines)) from None
