"""What README and docs say is there is there: files, commands, options, make targets, links."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from pllava import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


@page
def test_commands_and_their_options_are_there(page):
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:`|^\$ )make ([a-z-]+)", text, re.M)) <= targets
    for line in re.findall(r"(?:`|^\$ )(pllava [^`\n#]+)", text, re.M):
        words = shlex.split(line.rstrip("\\ ").split(" && ")[0].split(" | ")[0])[1:]
        command = typer.main.get_command(cli.app)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        if hasattr(command, "commands"):
            assert words in ([], ["<stage>"], ["--help"]), line
            continue
        options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        assert {word.strip("[]").split("=")[0] for word in words if word.startswith(("--", "[--"))} <= options, line


@page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@page
def test_files_that_are_named_are_there(page):
    named = re.findall(r"(?<![\w/.])((?:pllava|flows|tests|benchmarks|recipes|docs|data/base)/[\w./-]+\w)(?![\w*<{/])", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_is_read_in_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    assert (ROOT / "docs/answer.gif").stat().st_size < 1_000_000


def test_the_tree_names_every_module_and_what_it_is():
    lines = subprocess.run([sys.executable, ROOT / "docs/tree.py"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == sum(1 for folder in ("pllava", "flows") for _ in (ROOT / folder).rglob("*.py"))
    assert [line for line in lines if len(line.split(maxsplit=1)) < 2] == [], "a module without a docstring"
