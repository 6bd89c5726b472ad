"""The tiny grid, found by name like the packaged ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrzoo.submit import grid as grids
from cxrzoo.submit.bundle import Bundle
from tests.submit import forge


@pytest.fixture(scope="package")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle in which nothing is wrong."""
    return forge.make(tmp_path_factory.mktemp("sound"))


@pytest.fixture(scope="package", autouse=True)
def tiny_grids(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = forge.write_grids(tmp_path_factory.mktemp("grids"))
    packaged, grids.FOLDER = grids.FOLDER, folder
    yield folder
    grids.FOLDER = packaged
