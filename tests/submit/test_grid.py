from __future__ import annotations

from types import ModuleType

import pytest

from cxrzoo import resources
from cxrzoo.data.benchmark import list_benchmarks
from cxrzoo.errors import CxrzooError, UnknownNameError
from cxrzoo.submit import grid as grids
from tests.scripts import script
from tests.submit import forge

PACKAGED = resources.BENCHMARKS / "grids"


@pytest.fixture(scope="module")
def pin_grid() -> ModuleType:
    return script("pin_grid")


def test_the_phantoms_pins_are_those_of_a_fresh_computation(pin_grid):
    packaged = grids.read(PACKAGED / "phantom.yaml")
    assert pin_grid.pinned("phantom", None) == packaged
    assert pin_grid.text_of(packaged) == (PACKAGED / "phantom.yaml").read_text()
    assert packaged.trial


def test_the_pins_of_the_open_sets_are_those_of_the_copies_at_hand(pin_grid, shared_data):
    packaged = grids.read(PACKAGED / "open.yaml")
    assert pin_grid.pinned("open", shared_data) == packaged


def test_versions_that_are_not_at_hand_stay_as_they_are(pin_grid):
    packaged = grids.read(PACKAGED / "open.yaml")
    assert pin_grid.pinned("open", None, packaged) == packaged


def test_the_open_grid_pins_a_draw_for_each_of_its_thirty_cells():
    grid = grids.read(PACKAGED / "open.yaml")
    cells = list(grid.cells())
    assert len(cells) == 30
    assert cells[0] == ("nlmtb", 100, 0)
    assert not grid.trial
    for name, entry in grid.benchmarks.items():
        for rows in entry.rows:
            assert all(rows.draw(size, seed) for n, size, seed in cells if n == name)


def test_grids_are_no_benchmarks():
    assert "open" not in list_benchmarks()


def test_the_grids_protocol_is_pinned_with_all_its_settings():
    for path in PACKAGED.glob("*.yaml"):
        grid = grids.read(path)
        assert grids.protocol_sha256(grid.settings) == grid.protocol_sha256, (
            f"{grid.protocol} was changed: make it a new version"
        )


def test_an_unknown_grid_is_named_with_the_ones_there_are():
    with pytest.raises(UnknownNameError, match="did you mean tiny"):
        grids.find("tinny")


@pytest.mark.parametrize(("old", "new", "message"), [
    ("protocol: linear-v1", "protocol: linear-v9", "protocol linear-v9 is none of"),
    ("seeds: 2", "seeds: 0", "seeds: "),
    ("name: tiny", "nom: tiny", "nom: unknown field"),
    ("cxrzoo.grid/1", "cxrzoo.grid/2", "schema"),
    ("name: tiny", "name: [", "not a grid"),
])  # fmt: skip
def test_a_broken_grid_is_named(tmp_path, old, new, message):
    path = forge.write_grids(tmp_path) / "tiny.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(CxrzooError, match=message):
        grids.read(path)


def test_rows_are_known_from_accepted_records_as_from_the_data(sound, tmp_path):
    from cxrzoo.submit.checks import read_record

    records = [read_record(sound, name) for name in sound.record_names]
    rows = grids.rows_of_records(records)
    assert rows is not None
    (pinned,) = forge.tiny_grid().benchmarks["phantom"].rows
    assert rows.model_copy(update={"description": pinned.description}) == pinned
    assert grids.rows_of_records([]) is None
