"""The training loop: LoRA on the language model and the projector, everything else frozen (paper, section 3.4).

    accelerate launch -m pllava.train --params params.yaml

A step's loss is the mean over all its supervised tokens, whatever the number of micro-batches and processes that share it. Writes
outputs/train/ whole or not at all: adapter/ (all that inference needs) and history.jsonl. Two runs on one machine give equal bytes.
"""

from __future__ import annotations

import math
import sys
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from torch.utils.data import DataLoader

import pllava
from pllava.chat.template import load_template
from pllava.data.collator import Collator
from pllava.data.conversation import IGNORE
from pllava.data.dataset import InstructionDataset, Pixels, VisionSource
from pllava.data.feature_store import open_store
from pllava.data.manifest import PREPARED, read_manifest
from pllava.data.tower import encode_clips
from pllava.errors import PllavaError
from pllava.files import atomic_dir, atomic_write_text
from pllava.model.adapter import add_lora, save_adapter
from pllava.model.attention import use_packed_attention
from pllava.model.checkpointing import recompute
from pllava.model.quantization import quantization_config
from pllava.registry.tracking import Run, training_run
from pllava.train.distributed import make_accelerator
from pllava.train.journal import Journal
from pllava.train.optimizer import adamw
from pllava.train.schedule import cosine
from pllava.train.steps import StepSampler, validation_batches

if TYPE_CHECKING:
    from pllava.params import Params

OUTPUT = Path("outputs/train")


def run(params: Params) -> Path:
    """Train as params say and write outputs/train. Raises PllavaError when the data is not ready or the loss is not a number."""
    be_deterministic(params)
    accelerator = make_accelerator(params.train)
    with training_run(params) if accelerator.is_main_process else nullcontext(Run(None, None)) as tracked:
        trainer = Trainer(params, accelerator)
        with Journal(tracked, params.train.steps, params.train.batch_size, accelerator.is_main_process) as journal:
            trainer.train(journal)
        if accelerator.is_main_process:
            trainer.save(journal)
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


class Trainer:
    """Model, data and optimiser of one run."""

    def __init__(self, params: Params, accelerator: Accelerator) -> None:
        self.params, self.accelerator = params, accelerator
        rows = {split: read_manifest(PREPARED / f"{split}.parquet") for split in ("train", "validation")}
        store = open_store(params)
        model, processor = pllava.load(
            params.model.base,
            num_frames=params.model.num_frames,
            pooling_shape=params.model.pooling_shape,
            dtype=params.model.dtype,
            device=str(accelerator.device),
            attn_implementation=params.model.attn_implementation,
            quantization_config=quantization_config(params.model.quantization),
        )
        self.base = model
        if params.train.packing:
            use_packed_attention(model)
        recompute(model, params.train.gradient_checkpointing)
        self.peft = add_lora(model, params.train.lora, params.seed)
        optimizer = adamw(self.peft, params.train.learning_rate, params.train.weight_decay)
        self.schedule = cosine(params.train.steps, params.train.warmup_ratio, params.train.min_lr_ratio)
        self.model, self.optimizer = accelerator.prepare(self.peft, optimizer)
        self.trainable = [parameter for parameter in self.peft.parameters() if parameter.requires_grad]

        vision: VisionSource = store or Pixels(processor, params.model.num_frames, params.train.sampling, params.seed)
        template = load_template(params.model.template)
        independent = params.train.turns == "independent"
        self.lengths = {split: [row.num_tokens for row in table] for split, table in rows.items()}
        self.data = {
            split: InstructionDataset(
                table, vision, processor.tokenizer, template, params.train.max_length, params.seed, split == "train", independent
            )
            for split, table in rows.items()
        }
        key = "vision_features" if vision.is_features else "pixel_values_videos"
        pad_token_id = processor.tokenizer.pad_token_id or 0
        self.collator = Collator(processor.image_token_id, processor.num_visual_tokens, pad_token_id, key, params.train.packing)
        self.workers = 0 if vision.is_features else params.data.workers

    def train(self, journal: Journal) -> None:
        settings, accelerator = self.params.train, self.accelerator
        sampler = StepSampler(
            self.lengths["train"],
            settings.steps,
            settings.batch_size,
            settings.gradient_accumulation,
            self.params.seed,
            accelerator.process_index,
            accelerator.num_processes,
        )
        micro_batches = iter(self._loader("train", sampler))
        losses: list[Tensor] = []
        if before := self._validate():
            journal.record(0, **before)
        self.model.train()
        for step in range(1, settings.steps + 1):
            journal.step_begins()
            learning_rate = settings.learning_rate * self.schedule(step - 1)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            loss, norm = self._step(list(islice(micro_batches, settings.gradient_accumulation)))
            losses.append(loss)
            journal.step_ends(step)
            metrics: dict[str, float] = {}
            if step % settings.log_every == 0 or step == settings.steps:
                mean = float(torch.stack(losses).mean())  # reading a number waits for the device: only here
                if not math.isfinite(mean):
                    raise PllavaError(
                        f"the loss is {mean} at step {step}. Lower train.learning_rate in params.yaml, or use mixed_precision: bf16"
                    )
                losses.clear()
                metrics = {"loss": mean, "lr": learning_rate, "grad_norm": float(norm)}
            if step % settings.validate_every == 0 or step == settings.steps:
                metrics |= self._validate()
            if metrics:
                journal.record(step, **metrics)

    def _step(self, micro_batches: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        """One update. Returns the mean loss over the step's supervised tokens, and the gradient norm before clipping."""
        accelerator = self.accelerator
        tokens = accelerator.reduce(torch.stack([_supervised(batch) for batch in micro_batches]).sum().to(accelerator.device))
        total = torch.zeros((), device=accelerator.device)
        for number, batch in enumerate(micro_batches):
            last = number == len(micro_batches) - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                loss = self._loss(batch, tokens)
                accelerator.backward(loss * accelerator.num_processes)  # gradients are averaged over processes, the loss is a sum
            total += loss.detach()
        norm = accelerator.clip_grad_norm_(self.trainable, self.params.train.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return accelerator.reduce(total), norm

    def _loss(self, batch: dict[str, Any], tokens: Tensor) -> Tensor:
        """Sum of the token losses of a micro-batch over `tokens`; logits are made at supervised positions only."""
        device = self.accelerator.device
        features = batch.get("vision_features")
        if features is None:
            features = encode_clips(self.base, list(batch["pixel_values_videos"]), self.params.features.dtype)
            features = torch.stack(features) if len({clip.shape for clip in features}) == 1 else features
        # Padding is on the right and attention causal: no supervised position sees it, so a conversation needs no mask and sdpa takes its
        # fast path. Independent turns bring a mask of their own, a packed row its segments.
        positions, segments = batch.get("position_ids"), batch.get("segments")
        mask = batch["attention_mask"] if positions is not None and segments is None else None
        output = self.model(
            input_ids=batch["input_ids"].to(device),
            labels=batch["labels"].to(device),
            attention_mask=None if mask is None else mask.to(device),
            position_ids=None if positions is None else positions.to(device),
            vision_features=features.to(device) if isinstance(features, Tensor) else [clip.to(device) for clip in features],
            num_items_in_batch=tokens,
            logits_to_keep=1,
            use_cache=False,
            **({} if segments is None else {"segments": segments}),
        )
        return output.loss

    def _validate(self) -> dict[str, float]:
        """Mean loss over every supervised token of the validation split; nothing without one."""
        if not self.lengths["validation"]:
            return {}
        settings, accelerator = self.params.train, self.accelerator
        self.model.eval()
        batches = validation_batches(self.lengths["validation"], settings.batch_size // settings.gradient_accumulation)
        total = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad():
            for batch in self._loader("validation", batches[accelerator.process_index :: accelerator.num_processes]):
                total += torch.tensor([self._loss(batch, torch.ones(())).item(), _supervised(batch).item()], dtype=torch.float64)
        loss, tokens = accelerator.reduce(total.to(accelerator.device)).tolist()
        self.model.train()
        return {"val_loss": loss / tokens}

    def _loader(self, split: str, sampler: Any) -> DataLoader:
        return DataLoader(self.data[split], batch_sampler=sampler, collate_fn=self.collator, num_workers=self.workers)

    def save(self, journal: Journal) -> None:
        """Write outputs/train: nothing in it tells when, where or in which run it was made, so equal runs are equal bytes."""
        params = self.params
        config = {
            "base": params.model.base,
            "model": params.model.model_dump(mode="json"),
            "train": params.train.model_dump(mode="json"),
            "template": params.model.template,
            "template_sha256": load_template(params.model.template).sha256,
            "seed": params.seed,
            "lora_alpha": params.train.lora.alpha,
        }
        with atomic_dir(OUTPUT) as folder:
            save_adapter(self.accelerator.unwrap_model(self.model), folder / "adapter", config)
            atomic_write_text(folder / "history.jsonl", journal.history_text())
        print(f"{OUTPUT}: {params.train.steps} steps, {journal.samples_per_second:.1f} samples/s", file=sys.stderr)


def _supervised(batch: dict[str, Any]) -> Tensor:
    """Tokens the loss is taken over: the label of position i is predicted at i - 1."""
    return (batch["labels"][:, 1:] != IGNORE).sum()
