"""The training loop: LoRA on the language model and the projector, everything else frozen (paper, section 3.4).

    accelerate launch -m pllava.stages.train --params params.yaml

A step's loss is the mean over all its supervised tokens, whatever the number of micro-batches and processes that share it. Writes
outputs/train/ whole or not at all. Two runs on one machine give equal bytes, and so does one that was killed and started again.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from torch import Tensor

from pllava.chat.conversation import IGNORE
from pllava.core.errors import PllavaError
from pllava.core.signals import Stopped, StopRequest
from pllava.model.pooling import repeat_frames
from pllava.model.tower import encode_clips
from pllava.stages.train import resume as kept
from pllava.stages.train import state as states
from pllava.stages.train.distributed import holds_parts, make_accelerator, sharing, tower_kept_whole
from pllava.stages.train.init import adapter_source, make_model
from pllava.stages.train.inputs import Inputs
from pllava.stages.train.logger import Journal
from pllava.stages.train.optimizer import adamw
from pllava.stages.train.output import OUTPUT, write_output
from pllava.stages.train.resume import Checkpoints
from pllava.stages.train.schedule import cosine
from pllava.tracking.runs import Run, training_run

if TYPE_CHECKING:
    from pllava.core.params import Params


def run(params: Params, fresh: bool = False) -> Path:
    """Train as params say and write outputs/train, going on from a checkpoint if there is one.

    fresh: drop an unfinished training. Raises PllavaError when the data is not ready, the loss is not a number, or an unfinished training
    of other settings is there; `Stopped` when told to end.
    """
    be_deterministic(params)
    accelerator = make_accelerator(params.train)
    main = accelerator.is_main_process
    with StopRequest().listen() as stop, kept.sole_training() if main else nullcontext():
        source = adapter_source(params)
        weights, shared = source.sha256 if source else None, sharing(accelerator)
        wanted = kept.fingerprint(params, accelerator.num_processes, accelerator.device.type, weights, shared)
        checkpoints = Checkpoints(wanted, params.train.keep_checkpoints)
        found = [checkpoints.prepare(fresh) if main else None]
        (resume,) = broadcast_object_list(found) if accelerator.num_processes > 1 else found
        with training_run(params, resume is not None) if main else nullcontext(Run(None, None)) as tracked:
            trainer = Trainer(params, accelerator)
            with Journal(tracked, trainer.steps, main) as journal:
                trainer.train(journal, checkpoints, resume, stop)
            trainer.save(journal)
            if main:
                checkpoints.finish()
                for name in ("summary.md", "loss.png", "history.jsonl"):
                    tracked.log_artifacts(OUTPUT / name, "train")
            accelerator.wait_for_everyone()
        accelerator.end_training()
    return OUTPUT


def be_deterministic(params: Params) -> None:
    set_seed(params.seed)
    if params.train.threads:
        torch.set_num_threads(params.train.threads)
    # On a GPU the pooling's backward has no deterministic kernel: warn there, insist on a CPU.
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # 5 % of a step, to find bugs we'd see as another hash


DEEPSPEED = "deepspeed"  # folder of its own files in a checkpoint


class Trainer:
    """Model, data and optimiser of one run."""

    def __init__(self, params: Params, accelerator: Accelerator) -> None:
        self.params, self.accelerator = params, accelerator
        self.in_parts = holds_parts(accelerator)
        self.deepspeed = accelerator.state.deepspeed_plugin is not None
        # One GPU need not hold what all share out: it goes there a block at a time.
        self.peft, processor = make_model(params, "cpu" if self.in_parts else str(accelerator.device))
        self.base = self.peft.get_base_model()
        optimizer = adamw(self.peft, params.train.learning_rate, params.train.weight_decay)
        with tower_kept_whole(self.base, accelerator):
            self.model, self.optimizer = accelerator.prepare(self.peft, optimizer)
        if accelerator.is_main_process and sharing(accelerator) == "FSDP2":
            held, of = states.share(self.peft)
            print(f"FSDP2: each process holds about {held:,} of {of:,} weights", file=sys.stderr)
        self.trainable = [parameter for parameter in self.peft.parameters() if parameter.requires_grad]
        self.inputs = Inputs(params, processor, accelerator.process_index, accelerator.num_processes)
        self.steps = params.train.total_steps(self.inputs.rows("train"))
        self.schedule = cosine(self.steps, params.train.warmup_ratio, params.train.min_lr_ratio)
        self.losses: list[Tensor] = []  # of the steps since they were last recorded
        self.best: dict[str, Tensor] | None = None  # weights of the lowest validation loss so far

    def train(self, journal: Journal, checkpoints: Checkpoints | None, resume: Path | None, stop: StopRequest) -> None:
        """checkpoints: None for a training that need not be resumed, as a study's."""
        settings = self.params.train
        done = self._restore(resume, journal) if resume else 0
        if not resume and (before := self._validate()):
            self._record(journal, 0, before)
        micro_batches = journal.meters.waiting(self.inputs.steps(self.steps, done))
        self.model.train()
        for step in range(done + 1, self.steps + 1):
            with journal.step(step) as meters:
                learning_rate = settings.learning_rate * self.schedule(step - 1)
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate
                batches = list(islice(micro_batches, settings.gradient_accumulation))
                loss, norm = self._step(batches)
                self.losses.append(loss)
            for batch in batches:
                meters.count(batch, self.accelerator.num_processes)
            meters.replaced = self.inputs.replace_bad("train", batches)
            last, metrics = step == self.steps, {}
            if step % settings.log_every == 0 or last:
                self._share_bad_clips()
                metrics = self._logged(step, checkpoints) | {"lr": learning_rate, "grad_norm": float(norm)}
            if step % settings.validate_every == 0 or last:
                metrics |= self._validate()
            if metrics:
                self._record(journal, step, metrics)
            if last or ("val_loss" in metrics and self._stops_early(journal)):
                return
            told = self._told_to_end(stop)
            if checkpoints is None:
                continue
            if told or step % settings.checkpoint_every == 0:
                self._checkpoint(step, journal, checkpoints)
            if told:
                raise Stopped(f"stopped after step {step} of {self.steps}; the same command goes on from there ({checkpoints.folder})")

    def _step(self, micro_batches: Sequence[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        """One update. Returns the mean loss over the step's supervised tokens, and the gradient norm before clipping."""
        accelerator = self.accelerator
        tokens = accelerator.reduce(torch.stack([_supervised(batch) for batch in micro_batches]).sum().to(accelerator.device))
        total = torch.zeros((), device=accelerator.device)
        for number, batch in enumerate(micro_batches):
            last = accelerator.sync_gradients = number == len(micro_batches) - 1  # DeepSpeed takes its step where this says so
            with nullcontext() if last else accelerator.no_sync(self.model):
                loss = self._loss(batch, tokens)
                accelerator.backward(loss * accelerator.num_processes)  # gradients are averaged over processes, the loss is a sum
            total += loss.detach()
        norm = states.whole(accelerator.clip_grad_norm_(self.trainable, self.params.train.max_grad_norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return accelerator.reduce(total), norm

    def _loss(self, batch: dict[str, Any], tokens: Tensor) -> Tensor:
        """Sum of the token losses of a micro-batch over `tokens`; logits are made at supervised positions only."""
        device = self.accelerator.device
        features = self._features(batch)
        features = features.to(device) if isinstance(features, Tensor) else [clip.to(device) for clip in features]
        # Padding is on the right and attention causal: no supervised position sees it, so a conversation needs no mask and sdpa takes its
        # fast path. Independent turns bring a mask of their own, a packed row its segments.
        positions, segments = batch.get("position_ids"), batch.get("segments")
        mask = batch["attention_mask"] if positions is not None and segments is None else None
        projected: list[Tensor] = []
        projector = self.base.model.multi_modal_projector
        hook = None if len(features) else projector.register_forward_hook(lambda module, inputs, output: projected.append(output))
        output = self.model(
            input_ids=batch["input_ids"].to(device),
            labels=batch["labels"].to(device),
            attention_mask=None if mask is None else mask.to(device),
            position_ids=None if positions is None else positions.to(device),
            vision_features=features,
            num_items_in_batch=tokens,
            logits_to_keep=1,
            use_cache=False,
            **({} if segments is None else {"segments": segments}),
        )
        if hook is None:
            return output.loss
        hook.remove()  # text alone: the projector has gradients all the same, of zero, which other processes wait for
        return output.loss + 0.0 * projected[0].sum()

    def _features(self, batch: dict[str, Any]) -> Tensor | Sequence[Tensor]:
        """The tower's output [V, T, P, Dv], V = 0 for text alone; a list where clips differ in T."""
        config = self.base.config
        found = batch.get("vision_features")
        if found is None and "pixel_values_videos" in batch:
            found = encode_clips(self.base, list(batch["pixel_values_videos"]), self.params.features.dtype)
            found = torch.stack(found) if len({clip.shape for clip in found}) == 1 else found
        if found is None:
            return torch.zeros(0, config.num_frames, math.prod(config.patch_grid), config.vision_config.hidden_size)
        if self.in_parts and not isinstance(found, Tensor):  # one call of the projector whatever the clips, as in every process
            return torch.cat([repeat_frames(clip[None], config.num_frames, config.frame_repeat) for clip in found])
        return found

    def _validate(self) -> dict[str, float]:
        """Mean loss over every supervised token of the validation split; nothing without one."""
        if not self.inputs.rows("validation"):
            return {}
        accelerator = self.accelerator
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad():
            for batch in self.inputs.validation(even=self.in_parts):
                total += torch.tensor([self._loss(batch, torch.ones(())).item(), _supervised(batch).item()], dtype=torch.float64)
                self.inputs.replace_bad("validation", [batch])
        loss, tokens = accelerator.reduce(total.to(accelerator.device)).tolist()
        self.model.train()
        return {"val_loss": loss / tokens}

    def _share_bad_clips(self) -> None:
        """What one process found counts in all: they end together when it is too much, and the main one writes the summary."""
        if self.accelerator.num_processes > 1:
            for found in gather_object([self.inputs.bad_clips]):
                for split, bad in found.items():
                    self.inputs.bad_clips[split] |= bad

    def _logged(self, step: int, checkpoints: Checkpoints | None) -> dict[str, float]:
        """The mean loss of the steps since the last record. Reading a number waits for the device: only here."""
        mean = float(torch.stack(self.losses).mean())
        self.losses.clear()
        if not math.isfinite(mean):
            if checkpoints is not None:
                checkpoints.discard()  # going on from before would lead to the same
            raise PllavaError(f"the loss is {mean} at step {step}. Lower train.learning_rate in params.yaml, or use mixed_precision: bf16")
        return {"loss": mean}

    def _record(self, journal: Journal, step: int, metrics: dict[str, float]) -> None:
        journal.record(step, **metrics)
        if "val_loss" in metrics and self._any(journal.best_step == step):
            self.best = states.weights(self.peft)

    def _stops_early(self, journal: Journal) -> bool:
        patience = self.params.train.early_stopping
        stops = False
        if patience and journal.active:
            since = [step for step, _ in journal.validations if step > (journal.best_step or 0)]
            stops = len(since) >= patience
            if stops:
                print(f"{patience} validation(s) without a new best loss: training ends at step {since[-1]}", file=sys.stderr)
        return self._any(stops)

    def _told_to_end(self, stop: StopRequest) -> bool:
        return self._any(stop.made)

    def _any(self, flag: bool) -> bool:
        """Whether any process says so: all must leave after the same step."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device)).item())

    def _checkpoint(self, step: int, journal: Journal, checkpoints: Checkpoints) -> None:
        mine = [{"random": states.random_state(), "bad": self.inputs.bad_clips}]
        everyone = gather_object(mine) if self.accelerator.num_processes > 1 else mine
        taken = states.take(self.peft, None if self.deepspeed else self.optimizer, self.accelerator.scaler)
        if not self.accelerator.is_main_process:
            if self.deepspeed:
                self._save_deepspeed()
            return
        taken.tensors |= {f"best/{name}": value for name, value in (self.best or {}).items()}
        if self.losses:
            taken.tensors["losses"] = states.copied(torch.stack(self.losses))
        taken.values |= {"processes": everyone, "history": journal.history}
        checkpoints.save(step, taken, self._save_deepspeed if self.deepspeed else None)

    def _save_deepspeed(self, folder: Path | None = None) -> None:
        """DeepSpeed knows alone what its optimiser holds: every process writes its part below the folder the main one names."""
        (where,) = broadcast_object_list([None if folder is None else str(folder / DEEPSPEED)])
        self.accelerator.save_state(where, exclude_frozen_parameters=True)
        self.accelerator.wait_for_everyone()

    def _restore(self, folder: Path, journal: Journal) -> int:
        """Put a checkpoint back; the step it was made after."""
        found = kept.read(folder)
        if self.deepspeed:
            self.accelerator.load_state(str(folder / DEEPSPEED), load_module_strict=False)
        else:
            states.put_back(found, self.peft, self.optimizer, self.accelerator.scaler)
        best = {name.removeprefix("best/"): value for name, value in found.tensors.items() if name.startswith("best/")}
        self.best = best or None
        if "losses" in found.tensors:
            self.losses = [loss.to(self.accelerator.device) for loss in found.tensors["losses"]]
        journal.resume(found.values["history"], found.values["step"])
        mine = found.values["processes"][self.accelerator.process_index]
        self.inputs.bad_clips = mine["bad"]
        states.put_random_state(mine["random"])
        if self.accelerator.is_main_process:
            print(f"goes on after step {found.values['step']} of {self.steps}, from {folder}", file=sys.stderr)
        return found.values["step"]

    def save(self, journal: Journal) -> None:
        """Write outputs/train. Every process gives its part of the weights."""
        last = states.weights(self.peft)
        if self.accelerator.is_main_process:
            write_output(self.params, self.peft, last, self.best, journal, self.inputs)


def _supervised(batch: dict[str, Any]) -> Tensor:
    """Tokens the loss is taken over: the label of position i is predicted at i - 1."""
    return (batch["labels"][:, 1:] != IGNORE).sum()
