"""Plugins: installed packages add benchmarks; a broken one costs a warning, nothing else."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from cxrzoo import resources
from cxrzoo.data.benchmark import ENTRY_POINTS, find, list_benchmarks, read_benchmark


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package that registers one folder of benchmarks: real metadata on sys.path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(package: str, code: str) -> Path:
        (tmp_path / f"{package}.py").write_text(code)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\nany = {package}:FOLDER\n")
        sys.modules.pop(package, None)  # another test's module of this name
        importlib.invalidate_caches()
        folder = tmp_path / f"{package}_files"
        folder.mkdir()
        return folder

    return install


def add_benchmark(folder: Path, name: str, title: str = "Another phantom") -> None:
    fields = (resources.BENCHMARKS / "phantom.yaml").read_text()
    fields = fields.replace("name: phantom", f"name: {name}")
    fields = fields.replace("Digital chest phantom, rendered from a seed", title)
    (folder / f"{name}.yaml").write_text(fields)


@pytest.mark.parametrize("target", ["FOLDER = {!r}", "def FOLDER(): return {!r}"])
def test_a_package_adds_its_benchmarks_by_path_or_callable(install, tmp_path, target):
    folder = install("good_plugin", target.format(str(tmp_path / "good_plugin_files")))
    add_benchmark(folder, "from-outside")
    assert "from-outside" in list_benchmarks()
    assert find("from-outside").title == "Another phantom"


def test_a_package_may_not_replace_a_benchmark(install, tmp_path):
    builtin = find("phantom")
    folder = install("rude_plugin", f"FOLDER = {str(tmp_path / 'rude_plugin_files')!r}")
    add_benchmark(folder, "phantom", "Not the phantom")
    with pytest.warns(UserWarning, match="package 'rude_plugin' may not replace 'phantom'"):
        assert find("phantom") == builtin


@pytest.mark.parametrize("code", ["raise RuntimeError('boom')", "import gone_package", "x = 1"])
def test_a_broken_package_warns_with_its_name_and_breaks_nothing(install, tmp_path, code):
    before = list_benchmarks()
    install("broken_plugin", code)
    folder = install("good_plugin", f"FOLDER = {str(tmp_path / 'good_plugin_files')!r}")
    add_benchmark(folder, "from-outside")
    with pytest.warns(UserWarning, match="package 'broken_plugin' are left out"):
        assert list_benchmarks() == sorted([*before, "from-outside"])


def test_a_malformed_file_of_a_package_warns_and_leaves_the_package_out(install, tmp_path):
    folder = install("sloppy_plugin", f"FOLDER = {str(tmp_path / 'sloppy_plugin_files')!r}")
    (folder / "sloppy.yaml").write_text("name: sloppy\n")
    with pytest.warns(UserWarning, match=r"'sloppy_plugin'.*sloppy\.yaml: version: Field required"):
        assert find("phantom") == read_benchmark(resources.BENCHMARKS / "phantom.yaml")
