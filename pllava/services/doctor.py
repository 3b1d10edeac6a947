"""`pllava doctor`: check whether this machine has what the project needs, with reasons. A check tries the part that it reports on."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from pllava.core import git as repository
from pllava.core.errors import PllavaError

OK, NOTE, MISSING = "ok", "note", "missing"
FREE_BYTES = 5 << 30  # a run with the default recipe writes about 1 GB, with a full model far more


@dataclass(frozen=True)
class Check:
    """One line of the report. state: OK, NOTE, or MISSING, for a part without which the project cannot work."""

    name: str
    state: str
    found: str
    reason: str = ""


def examine(params_file: Path = Path("params.yaml")) -> list[Check]:
    """Run every check. An unexpected error is reported as a missing part, and the other checks still run."""
    parts: tuple[Callable[[], Iterator[Check]], ...] = (_python, _packages, _device, _dtype, _attention, _decoders, _tools, _disk)
    checks = []
    for name, part in (*((part.__name__.strip("_"), part) for part in parts), ("project", lambda: _project(params_file))):
        try:
            checks += list(part())
        except Exception as error:
            checks.append(Check(name, MISSING, f"{type(error).__name__}: {error}"))
    return checks


def describe(checks: list[Check]) -> str:
    """The report: aligned lines, then the names of missing parts."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.state:<8}{check.name:<{width}}  {check.found}")
        if check.reason:
            lines.append(f"{'':<{8 + width}}  {check.reason}")
    missing = [check.name for check in checks if check.state == MISSING]
    lines.append(f"missing: {', '.join(missing)}" if missing else "everything needed is here")
    return "\n".join(lines)


def _python() -> Iterator[Check]:
    interpreter = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    good = sys.version_info >= (3, 11)
    yield Check("python", OK if good else MISSING, interpreter, "" if good else "3.11 or newer is needed")


def _packages() -> Iterator[Check]:
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requires("pllava") or []):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            yield Check(requirement.name, MISSING, "not installed", f"{requirement} is needed: pip install -r requirements.lock")
            continue
        if requirement.specifier.contains(installed.split("+")[0], prereleases=True):
            yield Check(requirement.name, OK, installed)
        else:
            yield Check(requirement.name, MISSING, installed, f"{requirement} is needed: pip install -r requirements.lock")


def _device() -> Iterator[Check]:
    import torch

    from pllava.model.load import choose_device

    device = str(choose_device("auto"))
    if device.startswith("cuda"):
        gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        hardware = "; ".join(f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus)
        yield Check("device", OK, hardware, "which model fits: pllava plan")
    elif device == "mps":
        yield Check("device", OK, "mps (Apple GPU)", "inference; training is tested on CPU and CUDA")
    else:
        import psutil

        memory = psutil.virtual_memory().total / 2**30
        hardware = (
            f"cpu, {psutil.cpu_count(logical=False) or os.cpu_count()} core(s), {memory:.0f} GiB, {torch.backends.cpu.get_cpu_capability()}"
        )
        yield Check(
            "device", NOTE, hardware, "no GPU is seen by torch: the tiny default runs well, 7B and larger are slow; see pllava plan"
        )


def _dtype() -> Iterator[Check]:
    import torch

    from pllava.model.load import choose_device, choose_dtype

    chosen = choose_dtype("auto", choose_device("auto"))
    reason = ""
    if chosen == torch.float32:
        reason = (
            "what `auto` takes on a CPU: exact; bfloat16 is faster only where the processor has 16-bit matrix products (AVX512-BF16, AMX)"
        )
    elif torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        reason = "this GPU has no bfloat16: train with train.mixed_precision fp16"
    yield Check("dtype", OK, str(chosen).removeprefix("torch."), reason)


def _attention() -> Iterator[Check]:
    import torch

    q = torch.randn(1, 2, 8, 16)
    plain = torch.softmax(q @ q.mT / 4, -1) @ q
    error = (torch.nn.functional.scaled_dot_product_attention(q, q, q) - plain).abs().max().item()
    good = error < 1e-5
    yield Check(
        "attention", OK if good else MISSING, "sdpa, eager", "" if good else f"sdpa differs from eager by {error:.1e}: reinstall torch"
    )
    if not torch.cuda.is_available():
        return
    if importlib.util.find_spec("flash_attn") is None:
        yield Check(
            "flash_attention_2", NOTE, "not installed", "optional: pip install flash-attn, then attn_implementation: flash_attention_2"
        )
    else:
        yield Check("flash_attention_2", OK, version("flash_attn"))


def _decoders() -> Iterator[Check]:
    """Write an H.264 clip whose frames get brighter, and read it back with each reader."""
    import numpy as np

    from pllava.stages.render.video_writer import write_mp4
    from pllava.video.reader import read_video

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        write_mp4(path, np.stack([np.full((64, 64, 3), 20 * level, np.uint8) for level in range(12)]), fps=12)
        for reader, package in (("decord", "decord2"), ("pyav", "av")):
            name = f"decoder {reader}"
            try:
                clip = read_video(path, num_frames=4, reader=reader)
            except (PllavaError, ImportError) as error:
                yield Check(name, NOTE if reader == "decord" else MISSING, str(error), "pip install -r requirements.lock")
                continue
            levels = clip.frames.reshape(len(clip.frames), -1).mean(1)
            good = clip.reader == reader and bool((np.diff(levels) > 0).all())
            yield Check(
                name, OK if good else MISSING, f"{package} {version(package)}, H.264 read back", "" if good else f"wrong frames: {levels}"
            )


def _tools() -> Iterator[Check]:
    git = shutil.which("git")
    if git is None:
        yield Check("git", MISSING, "not found", "DVC and the lineage of a model need it: install git")
    else:
        output = subprocess.run([git, "--version"], capture_output=True, text=True, check=False).stdout.strip()
        yield Check("git", OK, output.removeprefix("git version "))
        yield from _repository()


def _repository() -> Iterator[Check]:
    """Whether git tells the commit here, and whether it takes commits of this user."""
    try:
        commit = repository.commit(Path())
        yield Check("repository", OK if commit else NOTE, f"at {commit[:12]}" if commit else "without a commit")
    except repository.NoRepositoryError:
        yield Check(
            "repository", NOTE, "none here", "a version's commit is not recorded. In a project: git init && git add . && git commit"
        )
        return
    except PllavaError as error:
        yield Check("repository", MISSING, *_in_short(error))
        return
    try:
        repository.run(Path(), "var", "GIT_COMMITTER_IDENT")
    except PllavaError as error:
        yield Check("git identity", NOTE, *_in_short(error))


def _in_short(error: PllavaError) -> tuple[str, str]:
    """The first line of git's message, and its advice as one line."""
    first, *advice = str(error).splitlines()
    return first, " ".join(" ".join(advice).split())


def _disk() -> Iterator[Check]:
    free = shutil.disk_usage(Path()).free
    reason = "" if free > FREE_BYTES else "less than 5 GiB: a run may fail half way; make room, or move the folder"
    yield Check("disk", NOTE if reason else OK, f"{free / 2**30:.0f} GiB free here", reason)


def _project(params_file: Path) -> Iterator[Check]:
    if not params_file.exists():
        reason = "stages and flows run in a project, the library anywhere. Make one: pllava init FOLDER"
        yield Check("project", NOTE, f"no {params_file} here", reason)
        return
    from pllava.core.params import load_params

    try:
        params = load_params(params_file)
    except PllavaError as error:
        yield Check("project", MISSING, str(error))
        return
    yield Check("project", OK, f"{params_file} is valid")
    base = Path(params.model.base)
    if base.exists():
        yield Check("base", OK, f"{base}")
    elif base.parts[0] in (".", "..", "/", "data") or len(base.parts) != 2:
        yield Check("base", MISSING, f"{base} is not there", "model.base of params.yaml: a folder or a hub id (owner/name)")
    else:
        yield Check("base", NOTE, f"{base}: a hub id", "downloaded at first use, unless it is in the hub's cache")
