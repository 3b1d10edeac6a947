"""Keeps the replies of judges on disk, by model and hash of the messages, so that a question to a judge is paid for once.

Temperature and length do not count: after a change of either, remove .state/judge to ask again.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from pllava.core.files import write_json

FOLDER = Path(".state/judge")


class ReplyCache:
    """One small file for each reply. Writes are atomic, so several processes can share the folder."""

    def __init__(self, model: str, folder: Path | None = None):
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", model)[:60]
        self.model = model
        self.folder = (folder or FOLDER) / f"{name}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"

    def get(self, prompt_sha256: str) -> dict[str, Any] | None:
        """{"reply", "usage"} of a request; None if the file is absent or damaged."""
        try:
            entry = json.loads(self._path(prompt_sha256).read_text())
        except (OSError, ValueError):
            return None
        return entry if isinstance(entry, dict) and isinstance(entry.get("reply"), str) else None

    def put(self, prompt_sha256: str, reply: str, usage: dict[str, int]) -> None:
        write_json(self._path(prompt_sha256), {"model": self.model, "prompt_sha256": prompt_sha256, "reply": reply, "usage": usage})

    def _path(self, prompt_sha256: str) -> Path:
        return self.folder / prompt_sha256[:2] / f"{prompt_sha256}.json"


def prompt_sha256(messages: list[dict[str, str]]) -> str:
    """Hash of a request's messages."""
    return hashlib.sha256(json.dumps(messages, ensure_ascii=False).encode()).hexdigest()
