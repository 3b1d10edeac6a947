"""Folders and files of other kinds are refused in words, where an adapter or results are asked for."""

import json
from pathlib import Path

import pytest

from pllava.core.errors import PllavaError
from pllava.registry.lineage import _of_path
from pllava.registry.resolve import verify


@pytest.mark.parametrize("manifest", [{"config.json": "0" * 64}, {"files": {}}, {"files": [], "adapter_sha256": "a"}, [], None])
def test_a_manifest_of_something_else(tmp_path, manifest):
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PllavaError, match="is no adapter folder"):
        verify(tmp_path)


def test_the_base_is_no_adapter():
    with pytest.raises(PllavaError, match="is no adapter folder"):
        _of_path(Path("data/base/tiny-llava"))


@pytest.mark.parametrize("content", [{"provenance": None}, {"metrics_sha256": "a"}, {"provenance": {"adapter_sha256": 5}}, {}, [], 1])
def test_json_that_is_no_result(tmp_path, content):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(PllavaError, match=r"names no adapter|no file of results"):
        _of_path(tmp_path / "a.json")
