"""The model as MLflow runs it.

    mlflow.pyfunc.load_model("models:/pllava@champion").predict({"video": "clip.mp4", "question": "What happens?"})

A "model from code": MLflow keeps this file beside the weights and runs it at load time; nothing is pickled. Input: columns `video` (a file
or frame folder that this process can read) and `question`, optionally `start` and `end` in seconds; output: a list, one answer a row.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pandas
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel


class VideoQuestions(PythonModel):
    """Settings that `mlflow.pyfunc.load_model(uri, model_config={...})` may change: base, template, lora_alpha, dtype, device."""

    def load_context(self, context: Any) -> None:
        from pllava.chat import VideoChat
        from pllava.model.load import load

        settings = context.model_config or {}
        base = settings.get("base") or context.artifacts.get("base")
        model, processor = load(
            base,
            adapter=context.artifacts["adapter"],
            lora_alpha=settings.get("lora_alpha"),
            dtype=settings.get("dtype") or "auto",
            device=settings.get("device") or "auto",
        )
        self.chat = VideoChat(model, processor, template=settings.get("template") or "vicuna")
        self.one_at_a_time = threading.Lock()  # the scoring server answers in threads

    def predict(self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        """Answers in the order of the rows; a clip is encoded once for all its questions.

        MLflow turns a dict or a list of dicts into a DataFrame; a direct call accepts all three.
        Raises MlflowException (HTTP 400) for invalid rows and unreadable videos.
        """
        from pllava.core.errors import PllavaError

        rows = _rows(model_input)
        length = int((params or {}).get("max_new_tokens") or 100)
        answers = [""] * len(rows)
        clips: dict[tuple[str, float | None, float | None], list[int]] = {}
        for index, row in enumerate(rows):
            clips.setdefault((row["video"], row["start"], row["end"]), []).append(index)
        with self.one_at_a_time:
            for (video, start, end), indices in clips.items():
                try:
                    watched = self.chat.watch(Path(video), start, end)
                    replies = watched.ask_all([rows[index]["question"] for index in indices], max_new_tokens=length)
                except PllavaError as error:
                    raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None
                for index, answer in zip(indices, replies, strict=True):
                    answers[index] = answer.text
        return answers


def _rows(model_input: Any) -> list[dict[str, Any]]:
    """Checked rows of a DataFrame, a dict or a list of dicts. Raises MlflowException for an invalid row."""
    if hasattr(model_input, "to_dict") and hasattr(model_input, "columns"):
        model_input = model_input.to_dict(orient="records")
    rows = [model_input] if isinstance(model_input, dict) else list(model_input)
    checked = []
    for number, row in enumerate(rows, 1):
        for key in ("video", "question"):
            if not isinstance(row.get(key), str) or not row[key].strip():
                raise MlflowException(
                    f"row {number}: {key} must be text that is not empty, found {row.get(key)!r}", error_code=INVALID_PARAMETER_VALUE
                )
        checked.append({"video": row["video"], "question": row["question"], "start": _seconds(row, "start"), "end": _seconds(row, "end")})
    return checked


def _seconds(row: dict[str, Any], key: str) -> float | None:
    value = row.get(key)
    return None if value is None or value != value else float(value)  # NaN: an empty cell


set_model(VideoQuestions())
