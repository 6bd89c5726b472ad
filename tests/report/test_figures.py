"""Figures: what they draw is what the grid says, and they can be read in grey."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from cxrzoo.cli import main
from cxrzoo.errors import CxrzooError
from cxrzoo.evaluation import record
from cxrzoo.report import figures
from cxrzoo.report.figures import cost, ranks, style
from cxrzoo.report.figures.cost import Point, front, spread
from cxrzoo.report.grid import Grid, Row, measure
from tests.report import fabricated

FULL = 5000
HOSTILE = [
    "$x^2$",
    "_hidden",
    "$unclosed_{",
    "胸部X線-编码器",
    "a\nb\tc\x00",
    "long-" + "ab" * 60,
    "long-" + "ac" * 60,
    "%&#\\frac{1}{0}",
    "🫁",
]


def records(
    encoders: Sequence[str], skills: Sequence[float] | None = None, **changes: Any
) -> list[record.Record]:
    """Three seeds of each encoder at each budget of each benchmark; better ones score higher."""
    skills = [0.6 + 0.02 * i for i in range(len(encoders))] if skills is None else skills
    return [
        _record(encoder, skill, benchmark, budget, seed, changes)
        for encoder, skill in zip(encoders, skills, strict=True)
        for benchmark in changes.get("benchmarks", ("alpha", "beta"))
        for budget in changes.get("budgets", (100, 1000, "full"))
        for seed in range(changes.get("seeds", 3))
    ]


def _record(
    encoder: str,
    skill: float,
    benchmark: str,
    budget: int | str,
    seed: int,
    changes: dict[str, Any],
) -> record.Record:
    size = FULL if budget == "full" else int(budget)
    noise = np.random.default_rng([seed, size, ord(benchmark[0])]).normal(0, 0.01)
    auroc = skill + 0.03 * np.log10(size) + noise
    macro = None if changes.get("undefined") else {"auroc": float(auroc), "auprc": 0.5}
    test = {"labels": {}, "macro": macro or {"auroc": None, "auprc": None}, "n_images": 60}
    tests = dict.fromkeys(changes.get("test_sets", ("test",)), test)
    return record.seal(
        record.Spec.model_validate(
            {
                "encoder": {
                    "name": encoder,
                    "arch": "a",
                    "weights_sha256": "0" * 64,
                    "input": {"size_px": 32, "mean": [0.5] * 3, "std": [0.5] * 3},
                },
                "benchmark": {
                    "name": benchmark,
                    "version": 1,
                    "labels": ["Sign"],
                    "label_policy": "mask",
                    "manifest_sha256": "1" * 64,
                    "pixels_sha256": "2" * 64,
                },
                "budget": {"size": budget, "n": size, "subset_sha256": f"{seed}{size}"},
                "protocol": {"name": changes.get("protocol", "linear-v1")},
                "seed": seed,
                "precision": "float32",
                "control": changes.get("control", "none"),
            }
        ),
        {
            "notes": [],
            "exposure": {"state": changes.get("exposure", "clean"), "reason": "why"},
            "stages": changes.get("stages", []),
        },
        {"status": "ok", "tests": tests},
        {"seconds": changes.get("seconds", 2.0) * (30 if seed == 0 else 1)},
        {"device": changes.get("device", "cpu"), "threads": 2},
    )


ANCHORED = ["random-init", "supervised-imagenet", "c", "d"]


def line(axes: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    """The data of the one line with a name."""
    (found,) = [drawn for drawn in axes.lines if drawn.get_label() == label]
    return np.asarray(found.get_xdata(), float), np.asarray(found.get_ydata(), float)


def panels(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}


def caption(figure: Figure) -> str:
    return figure.texts[0].get_text().replace("\n", " ")


def row(grid: Grid, label: str) -> Row:
    return next(r for r in grid.rows if r.label == label)


# Label efficiency.


def test_lines_and_bands_are_the_grids_means_and_intervals():
    grid = measure(records(ANCHORED))
    drawn = panels(figures.draw(grid)["label-efficiency-linear-v1"])
    assert list(drawn) == ["alpha", "beta"]
    for place, axes in drawn.items():
        assert axes.get_xscale() == "log"
        for encoder in ANCHORED:
            cells = [c for c in grid.row(row(grid, encoder)) if c.column.place == place]
            x, y = line(axes, encoder)
            assert x.tolist() == [100, 1000, FULL]
            assert y.tolist() == [c.mean for c in cells]
            (band,) = [b for b in axes.collections if b.get_label() == encoder]
            outline = band.get_paths()[0].vertices
            for n, cell in zip(x, cells, strict=True):
                limits = outline[outline[:, 0] == n, 1]
                assert (limits.min(), limits.max()) == (cell.interval.low, cell.interval.high)
        assert f"full: {FULL:,}" in [text.get_text() for text in axes.texts]


def test_many_encoders_have_bars_side_by_side_that_are_the_grids_intervals():
    grid = measure(records([*ANCHORED, "e", "f"]))
    axes = panels(figures.draw(grid)["label-efficiency-linear-v1"])["alpha"]
    assert not [band for band in axes.collections if band.get_label() in ANCHORED]
    assert len(axes.containers) == 6
    for encoder, bars in zip([r.label for r in grid.rows], axes.containers, strict=True):
        cells = [c for c in grid.row(row(grid, encoder)) if c.column.place == "alpha"]
        segments = bars.lines[2][0].get_segments()
        expected = [[c.interval.low, c.interval.high] for c in cells]
        np.testing.assert_allclose([s[:, 1] for s in segments], expected)
        np.testing.assert_array_equal([s[0, 0] for s in segments], line(axes, encoder)[0])
        np.testing.assert_allclose(line(axes, encoder)[0], [100, 1000, FULL], rtol=0.2)
    at_100 = [line(axes, r.label)[0][0] for r in grid.rows]
    assert len(set(at_100)) == 6


def test_no_bar_is_outside_its_panel_however_near_the_budgets_are():
    few = records([*ANCHORED, "e", "f", "g", "h"], budgets=(50, 100, 250))
    for axes in panels(figures.draw(measure(few))["label-efficiency-linear-v1"]).values():
        low, high = axes.get_xlim()
        for encoder in [*ANCHORED, "e", "f", "g", "h"]:
            x, _ = line(axes, encoder)
            assert 1.03 * low < x.min()  # room for a marker
            assert 1.03 * x.max() < high


def test_what_must_be_known_of_training_data_is_in_the_captions():
    stage = {"method": "moco", "data": "imagenet", "init": "random", "caution": "a stand-in"}
    known = measure([*records(["c"], stages=[stage]), *records(["d"])])
    for figure in ("label-efficiency-linear-v1", "ranks-linear-v1"):
        assert caption(figures.draw(known)[figure]).endswith("c: a stand-in.")


def test_beside_the_references_the_best_six_are_drawn_and_the_others_named():
    others = [f"encoder-{i}" for i in range(9)]
    grid = measure(records([*ANCHORED[:2], *others], [0.6, 0.55, *np.linspace(0.5, 0.7, 9)]))
    figure = figures.draw(grid)["label-efficiency-linear-v1"]
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == [*ANCHORED[:2], *others[3:]]
    assert "best 6 by mean rank; left out: encoder-0, encoder-1, encoder-2." in caption(figure)


def test_references_look_the_same_whoever_is_with_them():
    few = measure(records(["supervised-imagenet", "a"]))
    many = measure(records([*ANCHORED, "e"]))
    for grid in (few, many):
        looks = style.styles(grid.rows)
        assert looks[row(grid, "supervised-imagenet")] == style.REFERENCES["supervised-imagenet"]


def test_of_two_weights_with_a_references_name_only_one_is_the_reference():
    rows = [Row(f"random-init #{i}", "random-init", str(i), "", "", "") for i in range(2)]
    looks = style.styles(rows)
    assert looks[rows[0]] == style.REFERENCES["random-init"]
    assert looks[rows[1]] in style.OTHERS


def test_exposed_points_are_open_and_unknown_ones_marked():
    made = records(["a"]) + records(["b"], exposure="exposed") + records(["c"], exposure="unknown")
    figure = figures.draw(measure(made))["label-efficiency-linear-v1"]
    axes = panels(figure)["alpha"]
    faces = [m.get_markerfacecolor() for m in axes.lines if m.get_marker() not in ("None", None)]
    assert faces.count("white") == 1
    assert [t.get_text() for t in axes.texts].count("?") == 3
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries[3:] == [
        "open: pretraining has seen the benchmark",
        "unknown whether pretraining has seen the benchmark",
    ]


def test_external_test_sets_have_their_own_panel():
    grid = measure(records(["a", "b"], test_sets=("test", "outside")))
    figure = figures.draw(grid)["label-efficiency-linear-v1"]
    assert list(panels(figure)) == ["alpha", "alpha → outside", "beta", "beta → outside"]
    assert "trained on A, tested on B" in caption(figure)


def test_controls_and_undefined_cells_are_left_out():
    left_out = records(["a", "b"], control="shuffled-labels", benchmarks=("gamma",))
    left_out += records(["a", "b"], undefined=True, benchmarks=("delta",))
    drawn = figures.draw(measure(records(["a", "b"]) + left_out))
    assert list(panels(drawn["label-efficiency-linear-v1"])) == ["alpha", "beta"]
    assert figures.draw(measure(left_out)) == {}


def test_each_protocol_has_its_own_figures():
    made = records(["a", "b"]) + records(["a", "b"], protocol="finetune-v1")
    assert list(figures.draw(measure(made))) == [
        "label-efficiency-finetune-v1",
        "ranks-finetune-v1",
        "cost-finetune-v1-cpu",
        "label-efficiency-linear-v1",
        "ranks-linear-v1",
        "cost-linear-v1-cpu",
    ]


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_one_encoder_at_one_budget_gives_a_figure(n_seeds, tmp_path):
    grid = measure(records(["a"], budgets=(100,), benchmarks=("alpha",), seeds=n_seeds))
    drawn = figures.draw(grid)
    assert list(drawn) == ["label-efficiency-linear-v1"]
    (figure,) = drawn.values()
    assert ("No intervals" in caption(figure)) == (n_seeds == 1)
    assert len(panels(figure)["alpha"].containers) == 1
    assert len(figures.write(grid, tmp_path)) == 2


# Ranks.


def test_ranks_are_in_order_with_their_intervals():
    grid = measure(records(ANCHORED, [0.5, 0.7, 0.6, 0.8]))
    figure = figures.draw(grid)["ranks-linear-v1"]
    axes = figure.axes[0]
    order = ["d", "supervised-imagenet", "c", "random-init"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == order
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first is on top
    for y, encoder in enumerate(order):
        found = grid.ranks[0].of(row(grid, encoder))
        assert found is not None
        assert [v.tolist() for v in line(axes, encoder)] == [[found[0].estimate], [y]]
        ends = [found[0].low, found[0].high]
        assert any(np.array_equal(drawn.get_xdata(), ends) for drawn in axes.lines)
    assert "over 2 benchmarks (alpha, beta; 6 benchmark and budget pairs)" in caption(figure)


def test_bars_join_those_who_share_a_place_even_apart():
    assert ranks.shared_places([1, 2, 1, 3, 2]) == [(1, [0, 2]), (2, [1, 4])]


def test_with_one_benchmark_ranks_have_no_intervals_and_say_so():
    figure = figures.draw(measure(records(["a", "b"], benchmarks=("alpha",))))["ranks-linear-v1"]
    assert "No intervals and no places" in caption(figure)
    assert not figure.axes[0].texts


def test_ranks_name_who_is_left_out():
    made = records(["a", "b"]) + records(["c"], budgets=(100,)) + records(["d"], exposure="exposed")
    figure = figures.draw(measure(made))["ranks-linear-v1"]
    assert caption(figure).endswith("Left out (cells missing, undefined or exposed): c, d.")


# Cost.


def test_the_pareto_front_is_those_that_none_beats():
    points = [
        Point(Row(name, name, "", "", "", ""), *numbers, "clean")
        for name, *numbers in [
            ("slow", 9.0, 0.7),
            ("best", 8.0, 0.9),
            ("fast", 1.0, 0.6),
            ("same", 1.0, 0.5),
            ("middle", 4.0, 0.8),
            ("equal", 5.0, 0.8),
        ]
    ]
    assert [p.row.label for p in front(points)] == ["fast", "middle", "best"]


def test_cost_is_the_median_over_seeds_so_that_embedding_once_does_not_count():
    made = records(["a"], [0.6], seconds=1.0) + records(["b"], [0.7], seconds=4.0)
    grid = measure(made + records(["c"], [0.65], seconds=16.0))
    figure = figures.draw(grid)["cost-linear-v1-cpu"]
    axes = figure.axes[0]
    assert [line(axes, name)[0].tolist() for name in "abc"] == [[1.0], [4.0], [16.0]]
    for name in "abc":
        means = [c.mean for c in grid.row(row(grid, name)) if c.mean is not None]
        np.testing.assert_allclose(line(axes, name)[1], [np.mean(means)])
    assert line(axes, "front")[0].tolist() == [1.0, 4.0]
    assert "on cpu, 2 threads" in caption(figure)


def test_seconds_of_different_devices_never_share_a_figure():
    made = records(["a", "b"]) + records(["c", "d"], device="NVIDIA H200")
    grid = measure([*made, *records(["e"], device="mps")])
    drawn = figures.draw(grid)
    assert [name for name in drawn if "cost" in name] == [
        "cost-linear-v1-NVIDIA-H200",
        "cost-linear-v1-cpu",
    ]
    (h200,) = [c for c in cost.costs(grid, "linear-v1") if c.device == "NVIDIA H200"]
    assert [p.row.label for p in h200.points] == ["c", "d"]


def test_cost_is_compared_over_the_cells_that_all_have():
    made = records(["a", "b"]) + records(["c"], benchmarks=("alpha",))
    (found,) = cost.costs(measure(made), "linear-v1")
    assert [p.row.label for p in found.points] == ["a", "b"]
    assert len(found.columns) == 6


def test_labels_are_spread_until_they_do_not_overlap_and_keep_their_order():
    wanted = [0.1, 0.11, 0.12, 0.5, 0.9]
    found = spread(wanted, 0.05)
    assert found[3:] == pytest.approx(wanted[3:])
    assert spread([0.98, 0.99, 1.0], 0.1) == pytest.approx([0.8, 0.9, 1.0])
    assert np.diff(found).min() >= 0.05 - 1e-12
    assert np.mean(found[:3]) == pytest.approx(0.11)


def test_names_beside_the_points_do_not_overlap_and_stay_on_the_page():
    names = [f"{i}-an-encoder-with-quite-a-long-name" for i in range(20)]
    figure = figures.draw(measure(records(names, [0.6 + 0.0001 * i for i in range(20)])))[
        "cost-linear-v1-cpu"
    ]
    with style.own_settings():
        figure.draw_without_rendering()
    boxes = [Text.get_window_extent(t) for t in figure.axes[0].texts]  # without their lines
    boxes.sort(key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 for low, high in pairwise(boxes))
    assert all(figure.bbox.containsx(b.x1) and figure.bbox.containsy(b.y1) for b in boxes)
    assert figure.bbox.containsy(boxes[0].y0)


# Grey, names, files.


def luminance(colour: str) -> float:
    """As a grey printer sees it, 0 to 1."""
    return float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)))


def test_styles_differ_in_marker_dash_and_grey():
    looks = [*style.REFERENCES.values(), *style.OTHERS]
    for a, b in combinations(looks, 2):
        assert a.marker != b.marker
        assert a.dash != b.dash
        assert abs(luminance(a.colour) - luminance(b.colour)) > 0.07
    assert max(luminance(s.colour) for s in looks) < 0.75  # seen on white


def test_hostile_names_are_drawn_without_a_warning(tmp_path):
    changes = {"benchmarks": ("$a_b$", "胸" * 80), "exposure": "unknown", "device": "$gpu\n胸"}
    for names in (HOSTILE[:4], HOSTILE[4:]):
        grid = measure(records(names, protocol="../$p$", **changes))
        written = figures.write(grid, tmp_path)
        assert {path.parent for path in written} == {tmp_path}
        assert len(written) == 6


def test_names_stay_short_and_different():
    shown = style.display_names([*HOSTILE, "\ud800", "胸", "線"])
    assert len(set(shown.values())) == len(shown)
    assert max(map(len, shown.values())) <= 48
    assert shown["$x^2$"] == "$x^2$"
    assert shown["線"] == "\ufffd (4)"


def test_the_same_grid_gives_the_same_bytes_without_dates(tmp_path):
    grid = measure(records(ANCHORED))
    one, two = figures.write(grid, tmp_path / "1"), figures.write(grid, tmp_path / "2")
    assert len(one) == 6
    for a, b in zip(one, two, strict=True):
        assert a.read_bytes() == b.read_bytes()
        assert b"Date" not in a.read_bytes()
        assert a.read_bytes().startswith(b"%PDF" if a.suffix == ".pdf" else b"\x89PNG")


def test_settings_of_the_user_do_not_change_the_figures_nor_are_changed(monkeypatch):
    grid = measure(records(ANCHORED[:2], budgets=(100,)))
    before = figures.content(figures.draw(grid)["label-efficiency-linear-v1"], "png")
    monkeypatch.setitem(rcParams, "font.size", 20.0)
    monkeypatch.setitem(rcParams, "axes.facecolor", "red")
    assert figures.content(figures.draw(grid)["label-efficiency-linear-v1"], "png") == before
    assert rcParams["font.size"] == 20.0


# The command.


def test_figures_are_made_without_pyplot():
    code = (
        "import sys; from cxrzoo.report import figures; from cxrzoo.report.figures import style; "
        "style.own_settings().__enter__(); assert 'matplotlib.figure' in sys.modules; "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_figures_command_writes_what_it_prints(tmp_path):
    for encoder, skill in (("a", 1.0), ("b", 2.0)):
        for seed in range(2):
            fabricated.write(tmp_path / "runs", encoder, skill, seed)
    arguments = ["figures", str(tmp_path / "runs"), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*arguments, "--resamples", "100"])
    assert result.exit_code == 0, result.output
    printed = [Path(text) for text in result.stdout.splitlines()]
    assert sorted(printed) == sorted((tmp_path / "out").iterdir())
    assert [path.name for path in printed] == [
        f"{name}-linear-v1.{kind}"
        for name in ("label-efficiency", "ranks")
        for kind in ("png", "pdf")
    ]


def test_figures_command_says_when_there_is_nothing_to_draw(tmp_path):
    fabricated.write(tmp_path, "a", control="shuffled-labels")
    result = CliRunner().invoke(main, ["figures", str(tmp_path), "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "nothing to draw" in result.stderr


def test_without_matplotlib_the_message_says_how_to_install_it(monkeypatch):
    for module in [m for m in sys.modules if m.startswith("cxrzoo.report.figures")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(CxrzooError, match=r"pip install 'cxrzoo\[report\]'"):
        __import__("cxrzoo.report.figures")
