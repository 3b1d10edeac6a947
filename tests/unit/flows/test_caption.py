"""The captioning flow's form and runners."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from flows.caption import CaptionForm, caption, task_runner
from pllava.core.errors import PllavaError


def test_the_form_refuses_what_it_does_not_know():
    form = CaptionForm(paths=["clips"], dense={"max_seconds": 20})  # type: ignore[arg-type]
    assert form.dense
    assert form.dense.max_seconds == 20
    assert form.runner == "thread"
    for wrong in ({"paths": []}, {"paths": ["a"], "runner": "dask"}, {"paths": ["a"], "batch": 3}, {"paths": ["a"], "dense": {"min": 1}}):
        with pytest.raises(ValidationError):
            CaptionForm(**wrong)  # type: ignore[arg-type]


def test_the_form_is_what_the_page_asks_for():
    schema = caption.parameters.model_dump()
    assert {"paths", "output", "model", "question", "dense", "runner"} <= set(schema["definitions"]["CaptionForm"]["properties"])


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "prefect_ray", None)
    with pytest.raises(PllavaError, match=r"pip install 'pllava\[ray\]'"):
        task_runner("ray", 2)


def test_importing_it_loads_no_model_code():
    code = "import sys, flows.caption; print([name for name in ('torch', 'transformers', 'ray', 'mlflow') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
