"""An adapter is LoRA on the language model plus the projector. This module adds, saves, verifies and loads adapters.

model = add_lora(model, params.train.lora, seed)            # trainable: LoRA and projector, nothing else
save_adapter(model, "outputs/train/adapter", config)        # writes manifest.json last: a folder without it is incomplete
"""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Collection
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors.torch import save_file
from torch import Tensor

from pllava.core.errors import PllavaError
from pllava.core.files import atomic_dir, atomic_write_text, read_json, write_json
from pllava.core.hashing import sha256_file
from pllava.model import layouts
from pllava.model.adapter_names import current_name, peft_name, published_adapter_name, update_layer_names
from pllava.model.familiarity import Familiarity

if TYPE_CHECKING:
    from pllava.core.params import Lora

WEIGHTS = "adapter_model.safetensors"
# keys of peft's config that a continued training keeps, or that do not describe the weights
KEPT = {"r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "modules_to_save", "rank_pattern", "alpha_pattern"}
KEPT |= {"use_rslora", "use_dora", "layers_to_transform", "layers_pattern", "inference_mode", "base_model_name_or_path", "revision"}
KEPT |= {"task_type", "peft_type", "auto_mapping", "peft_version"}
DEFAULT_ALPHA = 32  # of the published training; published adapters don't store their alpha
AS_TRAINED = "as_trained"  # attribute of a loaded adapter's config: (lora_alpha, alpha_pattern) before `set_lora_alpha` changed them


def targets(names: Collection[str]) -> str:
    """peft's pattern for the linear layers `names` of the language model. Bare names would match layers of the vision tower too."""
    return rf".*language_model.*\.({'|'.join(re.escape(name) for name in sorted(names))})"


def add_lora(model: Any, lora: Lora, seed: int) -> PeftModel:
    """Wrap the model with new LoRA, and make LoRA and projector trainable, in fp32. LoRA's B is 0, so the outputs don't change yet.

    Equal seeds give equal weights. The random state of the caller stays the same.
    """
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # any number scales
        lora_dropout=lora.dropout,
        target_modules=targets(lora.target_modules),
        modules_to_save=["multi_modal_projector"],
    )
    layers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    unknown = [target for target in lora.target_modules if not any(re.fullmatch(targets([target]), layer) for layer in layers)]
    if unknown:  # peft itself raises only if none of the names matches
        known = sorted({layer.rsplit(".", 1)[1] for layer in layers if "language_model" in layer})
        raise PllavaError(f"train.lora.target_modules {unknown} are no linear layers of the language model. It has: {', '.join(known)}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped = _wrap(model, config)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:  # AdamW at 2e-5 loses its updates in 16 bits
            parameter.data = parameter.data.float()
    return wrapped


def continue_adapter(model: PeftModel, lora: Lora, source: str) -> PeftModel:
    """Make a loaded adapter trainable, in fp32. The caller trains it further.

    Rank, alpha and target_modules of the adapter must equal those of `lora`: another alpha would change the outputs. rsLoRA, DoRA,
    rank_pattern, alpha_pattern and a choice of layers stay as they are. Raises PllavaError that names each difference,
    or each feature of the adapter that this training does not support.
    """
    peft_config = model.peft_config["default"]
    if unsupported := _unsupported_features(model):
        raise PllavaError(
            f"train.init_from {source} is another kind of adapter than this training can go on with: {'; '.join(unsupported)}\n"
            "Merge it into its base and train fresh LoRA on that: pllava export --adapter, then set model.base"
        )
    layers = {name.rsplit(".", 1)[1] for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    actual = {"r": peft_config.r, "alpha": peft_config.lora_alpha, "target_modules": sorted(layers)}  # type: ignore[attr-defined]
    requested = {"r": lora.r, "alpha": lora.alpha, "target_modules": sorted(lora.target_modules)}
    lines = [f"  train.lora.{key}: {requested[key]} in params.yaml, {actual[key]} there" for key in actual if actual[key] != requested[key]]
    if lines:
        raise PllavaError(
            f"train.init_from {source} has other LoRA than params.yaml asks for\n" + "\n".join(lines) + "\nSet these to what is there"
        )
    peft_config.lora_dropout = lora.dropout  # type: ignore[attr-defined]
    for module in model.modules():
        if hasattr(module, "lora_A"):
            module.lora_dropout["default"] = torch.nn.Dropout(lora.dropout) if lora.dropout else torch.nn.Identity()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "lora_" in name or ".modules_to_save." in name
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def _unsupported_features(model: PeftModel) -> list[str]:
    """The features of an adapter that this training does not support, as sentences for an error message."""
    reasons = []
    saved = [name for name, module in model.named_modules() if isinstance(module, AuxiliaryTrainingWrapper)]
    if not any(name.endswith("multi_modal_projector") for name in saved):
        reasons.append("it has no projector, which is trained with LoRA")
    if other := [name for name in saved if not name.endswith("multi_modal_projector")]:
        reasons.append(f"it holds more than LoRA and projector, {', '.join(other)}")
    outside = [name for name, module in model.named_modules() if isinstance(module, LoraLayer) and "language_model" not in name]
    if outside:
        reasons.append(f"it has LoRA outside of the language model, {outside[0]}")
    theirs, ours = model.peft_config["default"].to_dict(), LoraConfig().to_dict()
    reasons += [
        f"{key} is {theirs[key]!r}"
        for key in sorted(ours)
        if key not in KEPT and theirs.get(key) not in (ours[key], None, False, "gaussian")
    ]
    return reasons


def _wrap(model: Any, config: LoraConfig, **options: Any) -> PeftModel:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # peft calls a deprecated method of transformers
        return get_peft_model(model, config, **options)  # type: ignore[return-value]


def set_lora_alpha(model: Any, alpha: float) -> None:
    """Set the strength of a loaded model's LoRA to `alpha`, in place. `load`, evaluate, study and the demo all call this function.

    `alpha` replaces `lora_alpha` in the adapter's config, and the values of `alpha_pattern` change in proportion. A layer of rank r
    (`rank_pattern`) scales its update by its alpha / r, with rsLoRA by alpha / sqrt(r). DoRA's magnitudes stay as trained.
    0 switches LoRA off.
    Every call starts from the trained values, so the trained alpha always gives the trained model, bit for bit.
    Raises PllavaError for an invalid alpha before it changes the model.
    """
    check_alpha(alpha)
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if any(layer.merged for layer in layers):
        raise PllavaError(f"LoRA is merged into the weights, so alpha {alpha:g} would change nothing. Load the model without merging")
    for name, config in getattr(model, "peft_config", {}).items():
        trained, pattern = vars(config).get(AS_TRAINED) or (config.lora_alpha, dict(config.alpha_pattern or {}))
        if not trained and pattern and alpha:
            raise PllavaError(
                f"the adapter's config has lora_alpha 0 beside an alpha_pattern, which alpha {alpha:g} can't keep in proportion. "
                "Write the lora_alpha it was trained with into its adapter_config.json"
            )
        setattr(config, AS_TRAINED, (trained, pattern))
        config.lora_alpha = alpha
        config.alpha_pattern = {key: _in_proportion(value, alpha, trained) for key, value in pattern.items()}
        for layer in layers:
            if name in layer.scaling:
                root = math.sqrt(layer.r[name]) if config.use_rslora else layer.r[name]
                layer.scaling[name] = _in_proportion(layer.lora_alpha[name], alpha, trained) / root  # peft keeps the trained alpha there


def get_lora_alpha(model: Any) -> float | None:
    """The alpha of a loaded model's LoRA, as trained or as `set_lora_alpha` set it. None if the model has no LoRA."""
    if not any(isinstance(module, LoraLayer) for module in model.modules()):
        return None
    return float(next(iter(model.peft_config.values())).lora_alpha)


def check_alpha(alpha: Any) -> None:
    """Raises PllavaError unless `alpha` is a finite number of 0 or more."""
    if isinstance(alpha, bool) or not isinstance(alpha, Real) or not 0 <= float(alpha) < math.inf:
        raise PllavaError(f"lora_alpha {alpha!r} is no strength of LoRA; a number of 0 or more is needed, e.g. 4")


def _in_proportion(value: float, alpha: float, trained: float) -> float:
    """value * alpha / trained, without rounding if alpha or value equals `trained`. `value` is the trained alpha of a layer."""
    return value if alpha == trained else alpha if value == trained else value * alpha / trained


def save_adapter(
    model: PeftModel,
    folder: str | Path,
    config: dict[str, Any],
    weights: dict[str, Tensor] | None = None,
    familiarity: Familiarity | None = None,
) -> dict[str, Any]:
    """Write the adapter folder, which is all that inference needs besides the base. Returns its manifest.

    The folder holds adapter_model.safetensors (LoRA and projector), adapter_config.json (peft's), config.yaml (`config`: base, model,
    train, template, seed ... as resolved) and manifest.json (sha256 of each file, of the adapter and of the base).
    Equal inputs give equal bytes.
    weights: parameter name -> tensor; they are saved instead of the model's weights. familiarity: statistics of the training clips, saved
    as familiarity.safetensors.
    """
    base = _base_of(config)
    peft_config = copy.copy(model.peft_config["default"])
    peft_config.base_model_name_or_path = base
    peft_config.inference_mode = True
    state = get_peft_model_state_dict(model, weights, save_embedding_layers=False)
    with atomic_dir(folder) as partial:
        save_file({key: state[key].detach().cpu().contiguous() for key in sorted(state)}, partial / WEIGHTS, metadata={"format": "pt"})
        peft_config.save_pretrained(str(partial))
        write_json(partial / "adapter_config.json", read_json(partial / "adapter_config.json"))  # sorted keys: equal bytes
        atomic_write_text(partial / "config.yaml", yaml.safe_dump(config, sort_keys=True, allow_unicode=True))
        if familiarity is not None:
            familiarity.save(partial)
        return write_manifest(partial, base)


def write_manifest(folder: Path, base: str | None) -> dict[str, Any]:
    """Write manifest.json into a finished adapter folder and return it. Its existence means that the folder is complete."""
    files = {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.name != "manifest.json"}
    manifest = {
        "files": files,
        "adapter_sha256": files[WEIGHTS],
        "base_sha256": base_sha256(base) if base and Path(base).is_dir() else None,
    }
    write_json(folder / "manifest.json", manifest)
    return manifest


def verify_adapter(folder: str | Path) -> dict[str, Any]:
    """The manifest of an adapter folder. Raises PllavaError that lists every file that is missing or has another sha256."""
    folder = Path(folder)
    if not (folder / "manifest.json").exists():
        raise PllavaError(f"{folder}: no manifest.json, so this adapter folder is not whole. Train again: pllava train")
    manifest = layouts.read_mapping(folder / "manifest.json")
    if not isinstance(manifest.get("files"), dict):
        raise PllavaError(f"{folder}/manifest.json names no files: it is damaged. Fetch or train the adapter again")
    problems = []
    for name, digest in manifest["files"].items():
        if not (folder / name).exists():
            problems.append(f"  missing: {name}")
        elif sha256_file(folder / name) != digest:
            problems.append(f"  changed: {name}")
    if problems:
        raise PllavaError(f"{folder}: doesn't match its manifest.json\n" + "\n".join(problems) + "\nFetch or train it again")
    return manifest


def base_sha256(base: str | Path) -> str:
    """sha256 over the names and sha256s of the base's safetensors files."""
    from hashlib import sha256

    files = sorted(Path(base).glob("*.safetensors"))
    return sha256("".join(f"{file.name} {sha256_file(file)}\n" for file in files).encode()).hexdigest()


def base_of(folder: Path) -> str:
    """Hub id or folder of the base that an adapter of ours was trained on.

    A relative folder is searched in the current folder, then in each parent of the adapter.
    Raises PllavaError if the adapter names no base.
    """
    config = resolved_config(folder)
    base = _base_of(config) or layouts.read_mapping(folder / "adapter_config.json").get("base_model_name_or_path")
    if not base:
        raise PllavaError(f"{folder}: doesn't say which base it belongs to. Give it: pllava.load(base, adapter={str(folder)!r})")
    carried = folder.resolve().parent / "base"
    if (carried.parent.parent / "MLmodel").is_file() and carried.is_dir():  # a registered version may include a small base
        return str(carried)
    for parent in (Path(), *folder.resolve().parents):
        if (parent / base).is_dir():
            return str(parent / base)
    return base


def resolved_config(folder: Path) -> dict[str, Any]:
    """config.yaml of an adapter folder of ours; {} if there is no such file."""
    path = folder / "config.yaml"
    if not path.exists():
        return {}
    try:
        config = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PllavaError(f"{path} is not YAML: {error}. Fetch or train the adapter again") from None
    if not isinstance(config, dict):
        raise PllavaError(f"{path} holds a {type(config).__name__}, a mapping is needed. Fetch or train the adapter again")
    return config


def _base_of(config: dict[str, Any]) -> str | None:
    return config.get("base") or (config.get("model") or {}).get("base")


def stores_alpha(folder: Path) -> bool:
    """Whether the adapter folder stores its LoRA alpha. Published adapters don't, so the caller must know it."""
    checkpoint = layouts.read(folder)
    return checkpoint.layout == "peft" or checkpoint.config.get("lora_alpha") is not None


def lora_config(checkpoint: layouts.Checkpoint, lora_alpha: float | None) -> LoraConfig:
    """The LoRA config of an adapter.

    peft layout: peft's stored config. Published layout: rank and layers come from the tensors, alpha is `lora_alpha`, else the folder's,
    else 32 with a warning. Raises PllavaError if the folder describes no LoRA.
    """
    if checkpoint.layout == "peft":
        file = checkpoint.folder / "adapter_config.json"
        kind = layouts.read_mapping(file).get("peft_type")
        if kind != "LORA":
            raise PllavaError(f"{file} has peft_type {kind!r}: only LoRA is known here, peft_type 'LORA'")
        try:
            config = LoraConfig.from_pretrained(str(checkpoint.folder))
        except (TypeError, ValueError) as error:
            raise PllavaError(f"{file} describes no LoRA: {error}. Fetch the folder again") from None
        config.base_model_name_or_path = None  # get_peft_model fills it in
        update_layer_names(config, checkpoint.lora)
        config.inference_mode = False  # keeps LoRA and projector trainable; dropout is off in eval()
        return config
    shapes = {key: tuple(value.get_shape()) for key, value in checkpoint.lora.items() if ".lora_A." in key}
    ranks = {shape[0] for shape in shapes.values()}
    if len(ranks) != 1:
        raise PllavaError(f"{checkpoint.folder}: LoRA of ranks {sorted(ranks)}; one rank for all layers is needed")
    if lora_alpha is None:
        lora_alpha = checkpoint.config.get("lora_alpha")
    if lora_alpha is None:
        lora_alpha = DEFAULT_ALPHA
        layouts.logger.warning(
            "%s doesn't store LoRA's alpha: %s, as in training; the paper used 4 at inference", checkpoint.folder, lora_alpha
        )
    return LoraConfig(
        r=ranks.pop(),
        lora_alpha=lora_alpha,  # type: ignore[arg-type]
        target_modules=targets({key.split(".lora_A.")[0].rsplit(".", 1)[1] for key in shapes}),
        modules_to_save=["multi_modal_projector"],
    )


def attach(model: Any, checkpoint: layouts.Checkpoint, lora_alpha: float | None) -> PeftModel:
    """Wrap a plain model with the adapter of `checkpoint`, which may have any layout. Raises PllavaError unless every tensor fits."""
    if lora_alpha is not None:
        check_alpha(lora_alpha)
    try:
        wrapped = _wrap(model, lora_config(checkpoint, lora_alpha), autocast_adapter_dtype=False)
    except ValueError as error:  # peft raises it if the model lacks the layers
        raise PllavaError(
            f"{checkpoint.folder}: its LoRA does not fit this model: {error}. Check that base and adapter belong together"
        ) from None
    expected = {key: tuple(value.shape) for key, value in get_peft_model_state_dict(wrapped, save_embedding_layers=False).items()}
    if checkpoint.layout == "peft":
        tensors = {current_name(key): value for key, value in checkpoint.lora.items()}
        layouts.check(expected, tensors, checkpoint.folder)
    else:  # the error lists tensors under their names in the file
        layouts.check({published_adapter_name(key): shape for key, shape in expected.items()}, checkpoint.lora, checkpoint.folder)
        tensors = {peft_name(key): value for key, value in checkpoint.lora.items()}
    state: dict[str, Tensor] = {key: value[:] for key, value in tensors.items()}
    set_peft_model_state_dict(wrapped, state)
    if lora_alpha is not None:
        set_lora_alpha(wrapped, lora_alpha)
    return wrapped
