"""What `make run` prints can be read, and copied, on a terminal of 80 columns."""

import io
import shutil
from pathlib import Path

from rich.console import Console

from flows.summary import metrics_table, print_summary
from pllava.core.files import write_json
from pllava.services.deploy import Deployment

RECIPE = Path(__file__).parents[3] / "recipes/tiny.yaml"
SCORE = {"value": 1.0, "low": 1.0, "high": 1.0, "n": 50, "chance": 1 / 3}
TASKS = ("Action Localization", "Moving Attribute", "Object Interaction")
METRICS = {"models": {name: {"average": SCORE, "tasks": dict.fromkeys(TASKS, SCORE)} for name in ("base", "single_frame", "adapted")}}


def printed(show) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    show(console)
    return console.file.getvalue().splitlines()


def test_a_task_is_one_line():
    lines = printed(lambda console: console.print(metrics_table("mvbench", METRICS)))
    for task in TASKS:
        (line,) = [line for line in lines if task in line]
        assert line.count("100.0 (100-100)") == 3
        assert line.rstrip().endswith("33")


def test_the_path_of_the_clip_is_in_one_piece(tmp_path):
    shutil.copy(RECIPE, tmp_path / "params.yaml")
    clip = "data/raw/rendered/MVBench/video/action_localization/action_localization_0000.mp4"
    served = Deployment("http://127.0.0.1:1", "pllava", 1, 2, str(tmp_path / clip), "Which way?", "left", True)
    lines = printed(lambda console: print_summary(Path(tmp_path), [1, 1, "champion of pllava: version 1", served], console))
    assert f"  {clip}" in lines
    assert "  Which way?" in lines
    assert "  -> left" in lines


def test_a_benchmark_that_has_left_the_params_is_not_shown(tmp_path):
    shutil.copy(RECIPE, tmp_path / "params.yaml")
    for name in ("mvbench", "msvd_qa"):
        write_json(tmp_path / f"metrics/{name}.json", METRICS)
    text = "\n".join(printed(lambda console: print_summary(tmp_path, [1, 1, "version 1"], console)))
    assert "mvbench" in text
    assert "msvd_qa" not in text
