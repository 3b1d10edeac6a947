"""doctor: what it says is what is so, and one broken part hides no other."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pllava import cli
from pllava.services import doctor
from pllava.services.doctor import MISSING, NOTE, OK, Check, describe, examine

ROOT = Path(__file__).parents[2]


def states(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.state for check in checks}


def test_a_machine_with_the_lock_installed_lacks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    checks = examine()
    assert not [check for check in checks if check.state == MISSING]
    found = states(checks)
    assert {"torch", "device", "dtype", "attention", "decoder decord", "decoder pyav", "project"} <= found.keys()
    assert found["decoder decord"] == found["decoder pyav"] == OK
    assert describe(checks).endswith("everything needed is here")


def test_missing_and_wrong_packages_are_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "requires", lambda name: ["not-a-package>=1", "numpy<1", "pytest>=1; extra == 'dev'", "pillow>=1"])
    checks = examine()
    found = {check.name: check for check in checks}
    assert found["not-a-package"].state == found["numpy"].state == MISSING
    assert "numpy<1 is needed" in found["numpy"].reason
    assert "pytest" not in found
    assert found["pillow"].state == OK
    assert describe(checks).endswith("missing: not-a-package, numpy")


def test_a_check_that_breaks_is_reported_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: 1 / 0)
    found = {check.name: check for check in examine()}
    assert found["disk"].state == MISSING
    assert "ZeroDivisionError" in found["disk"].found
    assert found["attention"].state == OK
    assert "project" in found


def test_bad_params_and_absent_base_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text)
    assert states(examine())["base"] == MISSING
    (tmp_path / "params.yaml").write_text(text.replace("num_frames: 8", "num_frame: 8"))
    broken = next(check for check in examine() if check.name == "project")
    assert broken.state == MISSING
    assert "num_frames" in broken.found


@pytest.mark.parametrize(("needed", "code"), [(["pillow>=1"], 0), (["not-a-package"], 1)])
def test_the_exit_code_says_whether_something_needed_is_missing(
    needed: list[str], code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "requires", lambda name: needed)
    result = CliRunner().invoke(cli.app, ["doctor"])
    assert result.exit_code == code
    assert ("missing: not-a-package" in result.output) == bool(code)
    for line in ("python", "device", "dtype", "attention", "decoder decord", "decoder pyav"):
        assert f" {line} " in result.output


def repository_checks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Check]:
    monkeypatch.chdir(folder)
    return {check.name: check for check in doctor._tools()}


def test_what_git_refuses_is_told_with_its_advice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for name, value in {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "EMAIL": "", "GIT_CONFIG_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "user.useConfigOnly")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "true")
    for name in ("GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL"):
        monkeypatch.delenv(name, raising=False)
    checks = repository_checks(tmp_path, monkeypatch)
    assert (checks["repository"].state, checks["repository"].found) == (NOTE, "without a commit")
    assert checks["git identity"].state == NOTE
    assert 'git config --global user.email "you@example.com"' in checks["git identity"].reason
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "false")
    monkeypatch.setenv("GIT_COMMITTER_NAME", "a")
    monkeypatch.setenv("GIT_COMMITTER_EMAIL", "a@b")
    assert "git identity" not in repository_checks(tmp_path, monkeypatch)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    refused = repository_checks(tmp_path, monkeypatch)["repository"]
    assert refused.state == MISSING
    assert "dubious ownership" in refused.found
    assert "git config --global --add safe.directory" in refused.reason


def test_a_project_without_a_repository_lacks_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert repository_checks(tmp_path, monkeypatch)["repository"].state == NOTE
