from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from cxrzoo import __version__

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return folder


def test_the_wheel_carries_cards_weights_and_benchmarks_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    cards = {p.parent.name for p in (ROOT / "model_cards").glob("*/README.md")}
    assert {f"cxrzoo/_data/model_cards/{c}/README.md" for c in cards} <= names
    assert "cxrzoo/_data/model_cards/supervised-imagenet/model.safetensors" in names
    benchmarks = {p.name for p in (ROOT / "benchmarks").glob("*.yaml")}
    assert {f"cxrzoo/_data/benchmarks/{b}" for b in benchmarks} <= names
    assert "cxrzoo/py.typed" in names
    tops = {n.split("/")[0] for n in names}
    assert tops == {"cxrzoo", f"cxrzoo-{__version__}.dist-info"}


def test_the_sdist_carries_them_too(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {n.split("/", 1)[1] for n in archive.getnames() if "/" in n}
    assert {
        "model_cards/supervised-imagenet/model.safetensors",
        "benchmarks/nih14.yaml",
        "tests/test_packaging.py",
        "LICENSE",
        "CITATION.cff",
    } <= names


def test_an_installed_wheel_works_from_an_empty_folder(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    program = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import cxrzoo\n"
        f"assert cxrzoo.__file__.startswith({str(site)!r}), cxrzoo.__file__\n"
        "print(len(cxrzoo.list_encoders()), len(cxrzoo.list_benchmarks()))\n"
        "print(cxrzoo.load('supervised-imagenet').num_features)\n"
        "print(len(cxrzoo.open_benchmark('phantom')))\n"
        "print(cxrzoo.load('random-init').exposure('rsna').images)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=empty,
        env={**os.environ, "CXRZOO_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    cards, benchmarks = ROOT.glob("model_cards/*/README.md"), ROOT.glob("benchmarks/*.yaml")
    named = [path for path in benchmarks if path.stem != "overlap"]
    expected = [len(list(cards)), len(named), 1280, 4000, 0]
    assert [int(word) for word in done.stdout.split()] == expected


def test_the_citation_file_is_valid():
    program = str(Path(sys.executable).with_name("cffconvert"))
    done = subprocess.run([program, "--validate"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
