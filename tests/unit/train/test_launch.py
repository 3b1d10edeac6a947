"""`pllava train` runs the loop under accelerate, and takes it along when it is told to end."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from pllava.core.errors import PllavaError
from pllava.core.params import Params, load_params
from pllava.core.processes import end_tree
from pllava.model.quantization import quantization_config
from pllava.stages.train import launch
from pllava.stages.train.launch import accelerate_config, command, train

RECIPES = Path(__file__).parents[3] / "recipes/accelerate"
Project = Callable[..., Params]


def test_command_is_a_list_and_the_params_arrive_whole(project: Project) -> None:
    params = project()
    words = command(params, "a file.json")
    assert words[1:3] == ["-m", "accelerate.commands.launch"]
    assert words[-4:] == ["-m", "pllava.stages.train", "--params", "a file.json"]
    assert words[words.index("--num_processes") + 1] == "1"
    with pytest.raises(PllavaError, match="exit code 1"):  # nothing is prepared: the loop says so and ends
        train(params)
    assert not Path("outputs/train").exists()


def test_two_commands_at_once_train_what_each_was_told(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second comes while the first one's processes are starting, before they have read anything."""
    first, second = project(seed=1), project(seed=2)

    def copying(params: Params, file: str, fresh: bool = False) -> list[str]:
        if params == first:
            train(second)
        return [sys.executable, "-c", f"import shutil; shutil.copy({file!r}, 'read by {params.seed}.json')"]

    monkeypatch.setattr(launch, "command", copying)
    train(first)
    assert [load_params(f"read by {seed}.json") for seed in (1, 2)] == [first, second]
    assert not list(launch.STATE.iterdir())


def test_every_shipped_config_is_one_of_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.utils import DistributedType

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # DeepSpeed is not installed here
    kinds = {file.name: accelerate_config(file) for file in RECIPES.glob("*.yaml")}
    assert {name: (config.distributed_type, config.num_processes, config.num_machines) for name, config in kinds.items()} == {
        "cpu-2.yaml": (DistributedType.MULTI_GPU, 2, 1),
        "cpu-2-fsdp2.yaml": (DistributedType.FSDP, 2, 1),
        "7b-one-gpu.yaml": (DistributedType.NO, 1, 1),
        "7b-eight-gpus.yaml": (DistributedType.MULTI_GPU, 8, 1),
        "7b-zero2.yaml": (DistributedType.DEEPSPEED, 8, 1),
        "13b-zero3.yaml": (DistributedType.DEEPSPEED, 8, 1),
        "34b-two-nodes.yaml": (DistributedType.MULTI_GPU, 16, 2),
        "34b-two-nodes-fsdp2.yaml": (DistributedType.FSDP, 16, 2),
    }
    assert kinds["34b-two-nodes-fsdp2.yaml"].fsdp_config["fsdp_version"] == 2
    assert [kinds[name].deepspeed_config["zero_stage"] for name in ("7b-zero2.yaml", "13b-zero3.yaml")] == [2, 3]


def test_every_option_of_a_shipped_config_is_known_to_the_launcher() -> None:
    """accelerate takes any key in these two mappings, and forgets those it does not know."""
    from accelerate.commands.launch import launch_command_parser

    known = vars(launch_command_parser().parse_args(["script"]))
    for file in RECIPES.glob("*.yaml"):
        raw = yaml.safe_load(file.read_text())
        options = {**raw.get("fsdp_config", {}), **raw.get("deepspeed_config", {})}
        assert [key for key in options if key not in known] == [], file.name


def test_the_file_of_params_decides(project: Project) -> None:
    words = command(project(train={"accelerate": RECIPES / "7b-eight-gpus.yaml"}), "params.json")
    assert words[words.index("--config_file") + 1] == str(RECIPES / "7b-eight-gpus.yaml")
    assert "--num_processes" not in words
    assert "--cpu" not in words


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "is not there. The shipped ones: recipes/accelerate"),
        ("distributed_type: DDP", "no config of accelerate: 'DDP' is not a valid DistributedType"),
        ("distributed_type: MULTI_GPU\nprocesses: 2", "unknown keys"),
        ("- 1", "no config of accelerate"),
        ("distributed_type: DEEPSPEED\nnum_processes: 8", "pip install deepspeed"),
        ("distributed_type: FSDP\nnum_processes: 8\nfsdp_config: {fsdp_offload_params: false}", "Set fsdp_version: 2"),
    ],
)
def test_a_config_that_cannot_be_is_refused(project: Project, text: str | None, why: str) -> None:
    if text is not None:
        Path("mine.yaml").write_text(text)
    with pytest.raises(PllavaError, match=why):
        command(project(train={"accelerate": "mine.yaml"}), "params.json")


def test_qlora_without_its_package_or_a_gpu_says_what_to_do(prepared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert quantization_config(None) is None
    with pytest.raises(PllavaError, match=r"pip install 'pllava\[qlora\]'"):
        quantization_config("4bit")
    monkeypatch.setattr("pllava.model.quantization.find_spec", lambda name: name)
    with pytest.raises(PllavaError, match="needs a GPU"):
        quantization_config("8bit")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    packed = quantization_config("4bit")
    assert (packed.load_in_4bit, packed.bnb_4bit_quant_type, packed.bnb_4bit_compute_dtype) == (True, "nf4", torch.bfloat16)


def test_the_whole_tree_ends(tmp_path: Path) -> None:
    script = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", script])
    process = psutil.Process(parent.pid)
    for _ in range(600):
        if process.children():
            break
        time.sleep(0.1)
    (child,) = process.children()
    end_tree(parent.pid)
    parent.wait()
    assert not psutil.pid_exists(child.pid) or child.status() == psutil.STATUS_ZOMBIE
    end_tree(parent.pid)  # already gone: nothing to do
