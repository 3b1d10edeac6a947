"""The training loop: LoRA on the language model and the projector, everything else frozen (paper, section 3.4).

    accelerate launch -m pllava.stages.train --params params.yaml

A step's loss is the mean over all its supervised tokens, whatever the number of micro-batches and processes. outputs/train/ is written
whole or not at all. Two runs on one machine give equal bytes, and so does a run that was killed and started again.
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
from pllava.model.familiarity import CLIPS, Familiarity, describe
from pllava.model.pooling import repeat_frames
from pllava.model.tower import encode_clips
from pllava.stages.train import resume, state
from pllava.stages.train.distributed import holds_parts, make_accelerator, sharing, tower_kept_whole
from pllava.stages.train.init import adapter_source, make_model
from pllava.stages.train.inputs import Inputs
from pllava.stages.train.logger import TrainLogger
from pllava.stages.train.optimizer import adamw, cosine
from pllava.stages.train.output import OUTPUT, write_output
from pllava.stages.train.resume import Checkpoints
from pllava.tracking.runs import Run, training_run

if TYPE_CHECKING:
    from pllava.core.params import Params


def run(params: Params, fresh: bool = False) -> Path:
    """Train as params say, from the newest checkpoint if there is one, and write outputs/train. Returns that folder.

    fresh: drop an unfinished training. Raises PllavaError when the data is not ready, when the loss is not a number, and when an unfinished
    training of other settings is there. Raises `Stopped` after a request to end, once a checkpoint is saved.
    """
    be_deterministic(params)
    accelerator = make_accelerator(params.train)
    main = accelerator.is_main_process
    with StopRequest().listen() as stop, resume.sole_training() if main else nullcontext():
        source = adapter_source(params)
        init_sha256 = source.sha256 if source else None
        processes, device = accelerator.num_processes, accelerator.device.type
        fingerprint = resume.fingerprint(params, processes, device, init_sha256, sharing(accelerator))
        checkpoints = Checkpoints(fingerprint, params.train.keep_checkpoints)
        newest = [checkpoints.prepare(fresh) if main else None]
        (checkpoint,) = broadcast_object_list(newest) if processes > 1 else newest
        with training_run(params, checkpoint is not None) if main else nullcontext(Run(None, None)) as tracked:
            trainer = Trainer(params, accelerator)
            with TrainLogger(tracked, trainer.steps, main) as logger:
                trainer.train(logger, checkpoints, checkpoint, stop)
            trainer.save(logger)
            if main:
                checkpoints.finish()
                for name in ("summary.md", "loss.png", "history.jsonl"):
                    tracked.log_artifacts(OUTPUT / name, "train")
            accelerator.wait_for_everyone()
        accelerator.end_training()
    return OUTPUT


def be_deterministic(params: Params) -> None:
    """Seed every random generator and make torch choose deterministic kernels."""
    set_seed(params.seed)
    if params.train.threads:
        torch.set_num_threads(params.train.threads)
    # The backward pass of the pooling has no deterministic kernel on a GPU: torch warns there, and raises on a CPU.
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # filling costs 5 % of a step


DEEPSPEED = "deepspeed"  # folder of DeepSpeed's own files in a checkpoint


class Trainer:
    """Model, data and optimiser of one run."""

    def __init__(self, params: Params, accelerator: Accelerator) -> None:
        self.params, self.accelerator = params, accelerator
        self.in_parts = holds_parts(accelerator)
        self.deepspeed = accelerator.state.deepspeed_plugin is not None
        # A model that the processes split may not fit on one GPU: it is built on the CPU and moved block by block.
        self.peft, processor = make_model(params, "cpu" if self.in_parts else str(accelerator.device))
        self.base = self.peft.get_base_model()
        optimizer = adamw(self.peft, params.train.learning_rate, params.train.weight_decay)
        with tower_kept_whole(self.base, accelerator):
            self.model, self.optimizer = accelerator.prepare(self.peft, optimizer)
        if accelerator.is_main_process and sharing(accelerator) == "FSDP2":
            held, total = state.weight_counts(self.peft)
            print(f"FSDP2: each process holds about {held:,} of {total:,} weights", file=sys.stderr)
        self.trainable = [parameter for parameter in self.peft.parameters() if parameter.requires_grad]
        self.inputs = Inputs(params, processor, accelerator.process_index, accelerator.num_processes)
        self.steps = params.train.total_steps(self.inputs.rows("train"))
        self.schedule = cosine(self.steps, params.train.warmup_ratio, params.train.min_lr_ratio)
        self.losses: list[Tensor] = []  # one of each step since the last record
        self.best: dict[str, Tensor] | None = None  # weights of the lowest validation loss so far

    def train(self, logger: TrainLogger, checkpoints: Checkpoints | None, checkpoint: Path | None, stop: StopRequest) -> None:
        """Run the steps that remain. Raises `Stopped` after a request to end, once a checkpoint is saved.

        checkpoints: None to write none, as for a study. checkpoint: the folder to continue from, None to begin at step 1.
        """
        settings = self.params.train
        done = self._restore(checkpoint, logger) if checkpoint else 0
        if not checkpoint and (before := self._validate()):
            self._record(logger, 0, before)
        micro_batches = logger.meters.waiting(self.inputs.steps(self.steps, done))
        self.model.train()
        for step in range(done + 1, self.steps + 1):
            with logger.step(step) as meters:
                learning_rate = settings.learning_rate * self.schedule(step - 1)
                for group in self.optimizer.param_groups:
                    group["lr"] = learning_rate
                batches = list(islice(micro_batches, settings.gradient_accumulation))
                loss, norm = self._step(batches)
                self.losses.append(loss)
            for batch in batches:
                meters.count(batch, self.accelerator.num_processes)
            meters.replaced = self.inputs.record_bad_clips("train", batches)
            last, metrics = step == self.steps, {}
            if step % settings.log_every == 0 or last:
                self._share_bad_clips()
                metrics = self._logged(step, checkpoints) | {"lr": learning_rate, "grad_norm": float(norm)}
            if step % settings.validate_every == 0 or last:
                metrics |= self._validate()
            if metrics:
                self._record(logger, step, metrics)
            if last or ("val_loss" in metrics and self._stops_early(logger)):
                return
            stop_requested = self._any(stop.made)
            if checkpoints is None:
                continue
            if stop_requested or step % settings.checkpoint_every == 0:
                self._checkpoint(step, logger, checkpoints)
            if stop_requested:
                raise Stopped(f"stopped after step {step} of {self.steps}; the same command goes on from there ({checkpoints.folder})")

    def _step(self, micro_batches: Sequence[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        """One update. Returns the mean loss over the step's supervised tokens, and the gradient norm before clipping."""
        accelerator = self.accelerator
        tokens = accelerator.reduce(torch.stack([_supervised(batch) for batch in micro_batches]).sum().to(accelerator.device))
        total = torch.zeros((), device=accelerator.device)
        for number, batch in enumerate(micro_batches):
            last = accelerator.sync_gradients = number == len(micro_batches) - 1  # DeepSpeed updates the weights when this is True
            with nullcontext() if last else accelerator.no_sync(self.model):
                loss = self._loss(batch, tokens)
                accelerator.backward(loss * accelerator.num_processes)  # gradients are averaged over the processes, but the loss is a sum
            total += loss.detach()
        norm = state.gather(accelerator.clip_grad_norm_(self.trainable, self.params.train.max_grad_norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return accelerator.reduce(total), norm

    def _loss(self, batch: dict[str, Any], tokens: Tensor) -> Tensor:
        """Sum of the token losses of a micro-batch, divided by `tokens`. Logits are computed at supervised positions only."""
        device = self.accelerator.device
        features = self._features(batch)
        features = features.to(device) if isinstance(features, Tensor) else [clip.to(device) for clip in features]
        # Padding is on the right and attention is causal, so no supervised position sees padding. A conversation therefore needs no mask,
        # and sdpa takes its fast path. Independent turns need their mask; a packed row has segments instead.
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
        hook.remove()
        # A batch of text alone: the projector gets zero gradients, because the other processes wait for its gradients.
        return output.loss + 0.0 * projected[0].sum()

    def _features(self, batch: dict[str, Any]) -> Tensor | Sequence[Tensor]:
        """The vision tower's output [V, T, P, Dv] of V clips, V = 0 for text alone; a list of [T, P, Dv] where clips differ in T."""
        config = self.base.config
        features = batch.get("vision_features")
        if features is None and "pixel_values_videos" in batch:
            features = encode_clips(self.base, list(batch["pixel_values_videos"]), self.params.features.dtype)
            features = torch.stack(features) if len({clip.shape for clip in features}) == 1 else features
        if features is None:
            return torch.zeros(0, config.num_frames, math.prod(config.patch_grid), config.vision_config.hidden_size)
        if self.in_parts and not isinstance(features, Tensor):  # every process must call the projector exactly once
            return torch.cat([repeat_frames(clip[None], config.num_frames, config.frame_repeat) for clip in features])
        return features

    def _validate(self) -> dict[str, float]:
        """{"val_loss": mean loss over every supervised token of the validation split}; {} when the split is empty."""
        if not self.inputs.rows("validation"):
            return {}
        accelerator = self.accelerator
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad():
            for batch in self.inputs.validation(even=self.in_parts):
                total += torch.tensor([self._loss(batch, torch.ones(())).item(), _supervised(batch).item()], dtype=torch.float64)
                self.inputs.record_bad_clips("validation", [batch])
        loss, tokens = accelerator.reduce(total.to(accelerator.device)).tolist()
        self.model.train()
        return {"val_loss": loss / tokens}

    def _share_bad_clips(self) -> None:
        """Give every process the bad clips of all processes, so that too many end all of them, and summary.md lists them all."""
        if self.accelerator.num_processes > 1:
            for bad_clips in gather_object([self.inputs.bad_clips]):
                for split, bad in bad_clips.items():
                    self.inputs.bad_clips[split] |= bad

    def _logged(self, step: int, checkpoints: Checkpoints | None) -> dict[str, float]:
        """{"loss": mean loss of the steps since the last record}. Reading it waits for the device, so losses are read only here.

        Raises PllavaError when the loss is not finite.
        """
        mean = float(torch.stack(self.losses).mean())
        self.losses.clear()
        if not math.isfinite(mean):
            if checkpoints is not None:
                checkpoints.discard()  # continuing from one of them would end in the same error
            raise PllavaError(f"the loss is {mean} at step {step}. Lower train.learning_rate in params.yaml, or use mixed_precision: bf16")
        return {"loss": mean}

    def _record(self, logger: TrainLogger, step: int, metrics: dict[str, float]) -> None:
        logger.record(step, **metrics)
        if "val_loss" in metrics and self._any(logger.best_step == step):
            self.best = state.weights(self.peft)

    def _stops_early(self, logger: TrainLogger) -> bool:
        """Whether the last `train.early_stopping` validations brought no new best loss."""
        patience = self.params.train.early_stopping
        stops = False
        if patience and logger.active:
            since = [step for step, _ in logger.validations if step > (logger.best_step or 0)]
            stops = len(since) >= patience
            if stops:
                print(f"{patience} validation(s) without a new best loss: training ends at step {since[-1]}", file=sys.stderr)
        return self._any(stops)

    def _any(self, flag: bool) -> bool:
        """Whether the flag is set in any process. Every process must call it, and all then leave after the same step."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device)).item())

    def _checkpoint(self, step: int, logger: TrainLogger, checkpoints: Checkpoints) -> None:
        own = [{"random": state.random_state(), "bad": self.inputs.bad_clips}]
        processes = gather_object(own) if self.accelerator.num_processes > 1 else own
        snapshot = state.capture(self.peft, None if self.deepspeed else self.optimizer, self.accelerator.scaler)
        if not self.accelerator.is_main_process:
            if self.deepspeed:
                self._save_deepspeed()
            return
        snapshot.tensors |= {f"best/{name}": value for name, value in (self.best or {}).items()}
        if self.losses:
            snapshot.tensors["losses"] = state.cpu_copy(torch.stack(self.losses))
        snapshot.values |= {"processes": processes, "history": logger.history}
        checkpoints.save(step, snapshot, self._save_deepspeed if self.deepspeed else None)

    def _save_deepspeed(self, folder: Path | None = None) -> None:
        """Every process writes its part of DeepSpeed's state into the checkpoint folder. Only the main process passes `folder`."""
        (target,) = broadcast_object_list([None if folder is None else str(folder / DEEPSPEED)])
        self.accelerator.save_state(target, exclude_frozen_parameters=True)
        self.accelerator.wait_for_everyone()

    def _restore(self, folder: Path, logger: TrainLogger) -> int:
        """Restore a checkpoint into this process. Returns the last step that was done."""
        snapshot = resume.read(folder)
        if self.deepspeed:
            self.accelerator.load_state(str(folder / DEEPSPEED), load_module_strict=False)
        else:
            state.restore(snapshot, self.peft, self.optimizer, self.accelerator.scaler)
        best = {name.removeprefix("best/"): value for name, value in snapshot.tensors.items() if name.startswith("best/")}
        self.best = best or None
        if "losses" in snapshot.tensors:
            self.losses = [loss.to(self.accelerator.device) for loss in snapshot.tensors["losses"]]
        step = snapshot.values["step"]
        logger.resume(snapshot.values["history"], step)
        own = snapshot.values["processes"][self.accelerator.process_index]
        self.inputs.bad_clips = own["bad"]
        state.restore_random_state(own["random"])
        if self.accelerator.is_main_process:
            print(f"goes on after step {step} of {self.steps}, from {folder}", file=sys.stderr)
        return step

    def save(self, logger: TrainLogger) -> None:
        """Write outputs/train. Every process must call it, because gathering the weights needs all of them."""
        last = state.weights(self.peft)
        if self.accelerator.is_main_process:
            write_output(self.params, self.peft, last, self.best, logger, self.inputs, self._familiarity())

    def _familiarity(self) -> Familiarity | None:
        """Statistics of the training clips, by which later clips are compared with them; None when there are too few."""
        described = []
        for clips in self.inputs.training_clips(CLIPS):
            features = clips if self.inputs.vision.is_features else encode_clips(self.base, clips, self.params.features.dtype)
            described += [describe(clip) for clip in features]
        return Familiarity.fit(described)


def _supervised(batch: dict[str, Any]) -> Tensor:
    """Number of tokens in the loss. Position i - 1 predicts the label of position i, so the first label does not count."""
    return (batch["labels"][:, 1:] != IGNORE).sum()
