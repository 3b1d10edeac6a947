"""Digests of the installed package for DVC: one file for each room (folder of code). `write_rooms(Path("outputs/code"))`.

In a checkout the stages of dvc.yaml depend on the folders of the code. A project of `pllava init` has no such folders. Its first stage,
`code`, writes the digests in every `dvc repro`, and the other stages depend on them. A new version of pllava makes those stages stale
whose rooms have changed.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from pllava.core.files import atomic_dir
from pllava.core.hashing import sha256_file

CODE = Path("outputs/code")
PACKAGE = Path(__file__).resolve().parents[1]
STAGE = f"""\
  code:
    desc: A digest of each room of the installed pllava; a room that changed makes the stages stale that use it
    cmd: pllava code
    always_changed: true
    outs:
      - {CODE}

"""


def write_rooms(target: Path = CODE) -> Path:
    """Write the files `core`, `video`, `stages/train`, ...: one for each folder of the package and of its stages. Returns `target`."""
    rooms = [folder for folder in (*PACKAGE.iterdir(), *(PACKAGE / "stages").iterdir()) if (folder / "__init__.py").is_file()]
    with atomic_dir(target) as making:
        for room in sorted(rooms):
            if room.name != "stages":
                file = making / room.relative_to(PACKAGE)
                file.parent.mkdir(exist_ok=True)
                file.write_text(f"{_digest(room)}\n")
    return target


def for_installed(dvc_text: str) -> str:
    """A checkout's dvc.yaml, changed for a project without the code: deps on pllava/ become deps on the outputs of `code`."""
    text = re.sub(r"(?<=[\s\[])pllava/", f"{CODE}/", dvc_text)
    return text.replace("stages:\n", f"stages:\n{STAGE}", 1)


def _digest(room: Path) -> str:
    files = sorted(file for file in room.rglob("*") if file.is_file() and file.suffix != ".pyc")
    lines = "\n".join(f"{file.relative_to(room).as_posix()} {sha256_file(file)}" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()
