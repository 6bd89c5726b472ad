from __future__ import annotations

import csv
import html
import io
import json
import re
import shlex
import zipfile
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cxrzoo.cli import main
from cxrzoo.errors import StorageError
from cxrzoo.evaluation import protocol as protocols
from cxrzoo.evaluation import record
from cxrzoo.report import page
from cxrzoo.report.grid import measure
from cxrzoo.report.page.cards import find_cards, to_html
from cxrzoo.report.page.data import as_json, index_data
from cxrzoo.zoo.card import card_text, read_card, split_front_matter
from cxrzoo.zoo.registry import find

HOSTILE = "<script>alert(1)</script>"
VOID = {"meta", "input", "br", "hr", "img", "link"}


def make(encoder: str = "a", **changes: Any) -> record.Record:
    """One sealed record as a run makes it, with made-up scores of two labels."""
    labels = {"Mass": changes.get("auroc", 0.8), "Edema": changes.get("second", 0.7)}
    known = {k: v for k, v in labels.items() if v is not None}
    mean = sum(known.values()) / len(known) if known else None
    test = {
        "labels": {
            k: {"status": "undefined", "n_pos": 0, "n_neg": 50}
            if v is None
            else {"status": "ok", "n_pos": 20, "n_neg": 30, "auroc": v, "auprc": v}
            for k, v in labels.items()
        },
        "macro": {"auroc": mean, "auprc": mean},
        "n_defined": len(known),
        "n_images": 50,
    }
    budget = changes.get("budget", 100)
    return record.seal(
        record.Spec.model_validate(
            {
                "encoder": {
                    "name": encoder,
                    "arch": changes.get("arch", "resnet50"),
                    "weights_sha256": changes.get("weights", "0" * 64),
                    "input": {"size_px": 32, "mean": [0.5] * 3, "std": [0.5] * 3},
                },
                "benchmark": {
                    "name": changes.get("benchmark", "nlmtb"),
                    "version": 1,
                    "labels": tuple(labels),
                    "label_policy": "mask",
                    "manifest_sha256": "1" * 64,
                    "pixels_sha256": "2" * 64,
                    "excluded": changes.get("excluded"),
                    "limit": changes.get("limit"),
                },
                "budget": {
                    "size": budget,
                    "n": 345 if budget == "full" else budget,
                    "subset_sha256": f"{changes.get('seed', 0):064x}",
                },
                "protocol": changes.get("protocol", protocols.spec(protocols.find("linear"))),
                "seed": changes.get("seed", 0),
                "precision": changes.get("precision", "float32"),
                "control": changes.get("control", "none"),
            }
        ),
        {
            "tier": changes.get("tier", "lite"),
            "strategy": changes.get("strategy", "moco on cxr"),
            "license": changes.get("license", "apache-2.0"),
            "pin": changes.get("pin"),
            "exposure": {
                "state": changes.get("exposure", "clean"),
                "reason": changes.get("reason", "nothing in common"),
            },
            "notes": changes.get("notes", []),
        },
        {
            "status": "ok",
            "tests": {"test": test} | dict.fromkeys(changes.get("external", ()), test),
            "predictions_sha256": "0" * 64,
            "shortcut": {"test": test},
        },
        {"seconds": 2.0, "peak_memory_mb": 900.5},
        {"cxrzoo": changes.get("version", "0.1.0"), "torch": "2.6.0"},
    )


def seeds(encoder: str, auroc: float, **changes: Any) -> list[record.Record]:
    """Three seeds whose scores differ a little."""
    near = (-0.01, 0.0, 0.01)
    return [
        make(encoder, auroc=auroc + d, second=auroc + d, seed=s, **changes)
        for s, d in enumerate(near)
    ]


def built(records: Sequence[record.Record], site: Path, **settings: Any) -> Path:
    page.build(measure(records, **settings), site)
    return site


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


class Elements(HTMLParser):
    """Every start tag with its attributes, and whether all that open are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def site(tmp_path: Path) -> Path:
    records = [
        *seeds("a", 0.8, budget=100),
        *seeds("a", 0.9, budget="full"),
        *seeds("random-init", 0.6, budget=100),
        *seeds("random-init", 0.65, budget="full")[:2],
    ]
    return built(records, tmp_path / "site")


def test_a_site_is_an_index_a_table_and_two_files_for_each_encoder(site):
    assert list(files(site)) == [
        page.MARKER,
        "encoders/a.html",
        "encoders/random-init.html",
        "index.html",
        "records/a.zip",
        "records/random-init.zip",
        "table.csv",
    ]
    rows = list(csv.DictReader(io.StringIO(read(site / "table.csv"))))
    assert [(r["encoder"], r["budget"]) for r in rows] == [
        ("random-init", "100"),
        ("random-init", "full"),
        ("a", "100"),
        ("a", "full"),
    ]


def test_every_page_is_whole_and_its_policy_names_its_style_and_script(site):
    for path in site.rglob("*.html"):
        text = read(path)
        found = Elements(text)
        assert found.open == []
        policy = next(a["content"] for t, a in found.tags if "http-equiv" in a)
        assert policy.startswith("default-src 'none'; ")
        for tag in ("style", "script"):
            inline = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
            assert len(inline) == 1
            assert page._source(inline[0]) in policy
        linked = [a.get("href") or a.get("src") for _, a in found.tags if {"href", "src"} & set(a)]
        assert not [u for u in linked if u and not u.startswith("#") and not _is_file(path, u)]


def _is_file(origin: Path, url: str) -> bool:
    return (origin.parent / url).is_file()


def test_two_builds_of_the_same_records_are_byte_identical(tmp_path):
    records = [*seeds("a", 0.8), *seeds("b", 0.7)]
    first = files(built(records, tmp_path / "one"))
    assert first == files(built(records, tmp_path / "two"))
    assert first == files(built(records, tmp_path / "one"))  # over itself


def test_the_version_shown_is_the_newest_that_made_a_record(tmp_path):
    records = [make("a", version="0.9.0"), make("b", version="0.10.1")]
    text = read(built(records, tmp_path / "site") / "index.html")
    assert "of cxrzoo 0.10.1" in text


# The folder.


def test_a_folder_that_is_no_leaderboard_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match="not empty and was not made by cxrzoo report"):
        built([make()], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_not_replaced(tmp_path):
    (tmp_path / "site").write_text("")
    with pytest.raises(StorageError, match="is a file"):
        built([make()], tmp_path / "site")


def test_records_are_never_replaced_even_inside_a_leaderboard(tmp_path):
    site = built([make()], tmp_path / "site")
    (site / "runs").mkdir()
    with pytest.raises(StorageError, match="holds the records"):
        page.build(measure([make()]), site, [site / "runs"])


def test_an_empty_folder_will_do(tmp_path):
    (tmp_path / "site").mkdir()
    assert (built([make()], tmp_path / "site") / "index.html").is_file()


def test_a_build_that_is_interrupted_leaves_the_old_site_and_no_rest(tmp_path):
    site = built([make("a")], tmp_path / "site")
    before = files(site)

    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        page.build(measure([make("b")]), site, on_page=interrupt)
    assert files(site) == before
    assert [p.name for p in tmp_path.iterdir()] == ["site"]


def test_a_site_that_cannot_be_moved_into_place_leaves_the_old_one(tmp_path, monkeypatch):
    site = built([make("a")], tmp_path / "site")
    before, rename = files(site), Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.suffix == ".tmp":
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StorageError, match="cannot write the leaderboard"):
        built([make("b")], site)
    assert files(site) == before
    assert [p.name for p in tmp_path.iterdir()] == ["site"]


def test_what_an_old_site_had_and_the_new_one_has_not_is_gone(tmp_path):
    site = built([make("a"), make("b")], tmp_path / "site")
    built([make("a")], site)
    assert [p.name for p in (site / "encoders").iterdir()] == ["a.html"]


# Names.


@pytest.mark.parametrize(
    "name", [HOSTILE, "../../etc/x", "timm:a.b", "名前", "x" * 3000, "..", ".hidden", "a\u202eb"]
)
def test_any_name_becomes_a_harmless_file_name(tmp_path, name):
    site = built([make(name)], tmp_path / "site")
    (written,) = (site / "encoders").iterdir()
    assert re.fullmatch(r"[a-z0-9][a-z0-9._~-]{0,90}\.html", written.name)
    assert len(list((site / "records").iterdir())) == 1


def test_names_that_differ_in_case_only_have_pages_of_their_own(tmp_path):
    site = built([make("Moco"), make("moco")], tmp_path / "site")
    assert len({p.name.lower() for p in (site / "encoders").iterdir()}) == 2


def test_json_in_a_page_cannot_end_its_script():
    text = as_json({"a": "</script><!--&\u2028\u2029"})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"a": "</script><!--&\u2028\u2029"}


def test_every_text_of_a_record_is_shown_as_text(tmp_path):
    bad = HOSTILE + "</script>\"'&"
    hostile = {"strategy": bad, "license": bad, "reason": bad, "notes": [bad], "version": bad}
    records = [
        make(bad, benchmark=bad, tier=bad, exposure="unknown", arch=bad, pin=bad, **hostile),
        make("b", benchmark=bad),
    ]
    site = built(records, tmp_path / "site")
    for path in site.rglob("*.html"):
        assert [t for t, _ in Elements(read(path)).tags].count("script") == (
            2 if path.name == "index.html" else 1
        )
        assert "alert(1)</script>" not in read(path)


# Cards.


def test_markdown_of_a_card_can_do_no_harm():
    text = to_html(
        "# Title\n\n<script>alert(1)</script> <img src=x onerror=alert(1)>\n\n"
        '[a](javascript:alert(1)) [b](data:text/html,x) [c](https://x.org/?a="b") '
        "[d](../../secret) ![pixel](https://x.org/p.png)\n\n|a|b|\n|-|-|\n|1|<b>2|\n"
    )
    tags = Elements(text).tags
    assert {t for t, _ in tags} <= {"h3", "p", "a", "table", "thead", "tbody", "tr", "th", "td"}
    assert [a["href"] for t, a in tags if t == "a"] == ["https://x.org/?a=%22b%22"]
    assert "[image: pixel]" in text
    assert "<h3>Title</h3>" in text


def card_folder(folder: Path, name: str, weights: str, body: str) -> None:
    """A card like that of random-init, of another name and weights."""
    _, source = find("random-init")
    front, _ = split_front_matter(read(source / "README.md"))
    front |= {"name": name, "weights": {"seed": 1, "sha256": weights}}
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(card_text(front, body), encoding="utf-8")
    (folder / "config.json").write_text("{}")


def test_a_card_below_the_records_is_shown_with_its_encoder_only(tmp_path):
    card_folder(tmp_path / "runs/x", "x", "a" * 64, "Read **me** <script>alert(1)</script>")
    records = [make("x", weights="a" * 64), make("y", weights="a" * 64)]
    page.build(measure(records), tmp_path / "site", [tmp_path / "runs"])
    own, other = (read(tmp_path / f"site/encoders/{n}.html") for n in "xy")
    assert "Read <strong>me</strong> &lt;script&gt;" in own
    assert "The card is not at hand" in other


def test_a_card_of_other_weights_is_not_shown(tmp_path):
    card_folder(tmp_path / "runs/x", "x", "a" * 64, "mine")
    page.build(measure([make("x", weights="b" * 64)]), tmp_path / "site", [tmp_path / "runs"])
    assert "The card is not at hand" in read(tmp_path / "site/encoders/x.html")


def test_a_broken_card_is_left_out_and_named(tmp_path):
    card_folder(tmp_path / "runs/x", "x", "a" * 64, "mine")
    (tmp_path / "runs/x/README.md").write_text("no front matter")
    (note,) = page.build(measure([make("x")]), tmp_path / "site", [tmp_path / "runs"])
    assert "card left out" in note
    assert "no YAML front matter" in note


def test_the_page_of_a_zoo_encoder_has_its_card_and_lineage(tmp_path):
    card, _ = find("supervised-imagenet")
    record_of_it = make(card.name, weights=card.weights.sha256)
    text = read(built([record_of_it], tmp_path / "site") / "encoders/supervised-imagenet.html")
    assert html.escape(card.provenance, quote=False) in html.unescape(text)
    lineage = text.split('<ol class="lineage">')[1].split("</ol>")[0]
    assert "<b>supervised</b>" in lineage
    assert "imagenet-1k" in lineage


def test_a_stage_links_to_the_encoder_it_starts_from(tmp_path):
    card_folder(tmp_path / "runs/x", "x", "a" * 64, "")
    path = tmp_path / "runs/x/README.md"
    front, body = split_front_matter(read(path))
    front["strategy"].append(
        {"method": "moco", "data": "cxr", "init": "y", "num_images": 5000, "epochs": 20}
    )
    path.write_text(card_text(front, body), encoding="utf-8")
    assert read_card(path.parent).chain == "random initialisation -> moco on cxr"
    records = [make("x", weights="a" * 64), make("y")]
    page.build(measure(records), tmp_path / "site", [tmp_path / "runs"])
    text = read(tmp_path / "site/encoders/x.html")
    assert '<a href="y.html">y</a>' in text
    assert "<dt>Images seen</dt><dd>100,000</dd>" in text


def test_cards_without_a_hash_are_found_by_their_pinned_commit():
    cards = find_cards([])
    (name, pin), found = next(iter(cards.pinned.items()))
    assert cards.of(make(name, pin=pin)) is found
    assert cards.of(make(name)) is None


# Pages of encoders.


def test_results_and_labels_of_an_encoder(tmp_path):
    records = [
        *seeds("a", 0.8, external=["montgomery"]),
        make("b", second=None, external=["montgomery"], exposure="exposed", reason="it saw them"),
        *[make("b", seed=s, external=["montgomery"], exposure="exposed") for s in (1,)],
    ]
    site = built(records, tmp_path / "site")
    a, b = (read(site / f"encoders/{n}.html") for n in "ab")
    assert "nlmtb → montgomery" in a
    assert "<td>0.800</td>" in a
    assert "over seeds</td>" in a
    assert "0.800 (0.790 to 0.810)" in a
    assert "2 of 3" in b
    assert "† exposed" in b
    assert "it saw them" in b
    assert "<td>20</td><td>30</td>" in b
    assert "2 seconds" not in a
    assert "6 seconds" in a


def test_a_label_of_one_class_is_undefined(tmp_path):
    text = read(built([make("a", second=None)], tmp_path / "site") / "encoders/a.html")
    row = text.split('<th scope="row">Edema</th>')[1].split("</tr>")[0]
    assert "undefined" in row


def test_a_cell_without_any_score_is_undefined(tmp_path):
    site = built([make("a", auroc=None, second=None), make("b")], tmp_path / "site")
    assert "<td>undefined</td>" in read(site / "encoders/a.html")


def commands(text: str) -> list[list[str]]:
    found = re.findall(r"<pre tabindex=\"0\"><code>(.*?)</code></pre>", text, re.DOTALL)
    return [shlex.split(html.unescape(command)) for command in found]


def parsed(command: list[str]) -> dict[str, Any]:
    """The values that the real command would get."""
    assert command[:2] == ["cxrzoo", "eval"]
    context = main.commands["eval"].make_context("eval", command[2:])
    return context.params


def test_every_command_is_one_that_the_program_takes(tmp_path):
    records = [
        *seeds("random-init", 0.6, budget=100, weights=find("random-init")[0].weights.sha256),
        make("random-init", budget="full", weights=find("random-init")[0].weights.sha256),
        make(
            "random-init",
            control="view",
            limit=50,
            excluded={"n": 1, "sha256": "0" * 64, "first": ["x y"]},
            weights=find("random-init")[0].weights.sha256,
            budget=20,
            precision="bfloat16",
            protocol=protocols.spec(protocols.find("finetune")),
        ),
    ]
    text = read(built(records, tmp_path / "site") / "encoders/random-init.html")
    plain, full, control = _sorted(text)
    assert plain["encoders"] == ("random-init",)
    assert plain["benchmarks"] == ("nlmtb",)
    assert (plain["budgets"], plain["seeds"], plain["protocol"]) == (("100",), 3, "linear-v1")
    assert (full["budgets"], full["seeds"]) == (("full",), 1)
    assert (control["control"], control["limit"], control["exclude_bad"]) == ("view", 50, True)
    assert (control["protocol"], control["device"]) == ("finetune-v1", "cuda")


def _sorted(text: str) -> list[dict[str, Any]]:
    return sorted(map(parsed, commands(text)), key=lambda c: (c["control"] != "none", c["budgets"]))


@pytest.mark.parametrize("name", [HOSTILE, "x; rm -rf ~", "-o", "a'b\"c $(d)"])
def test_a_hostile_name_stays_one_argument(tmp_path, name):
    site = built([make(name, benchmark=name, control=name)], tmp_path / "site")
    (written,) = (site / "encoders").iterdir()
    (command,) = commands(read(written))
    assert parsed(command)["benchmarks"] == (name,)
    assert parsed(command)["encoders"] == ("PATH/TO/ENCODER-FOLDER",)


@pytest.mark.parametrize(
    ("changes", "reference"),
    [
        ({"pin": "hf:org/repo@" + "a" * 40}, "hf:org/repo@" + "a" * 40),
        ({"name": "timm:resnet18.a1_in1k"}, "timm:resnet18.a1_in1k"),
        ({}, "PATH/TO/ENCODER-FOLDER"),
    ],
)
def test_how_an_encoder_outside_the_zoo_is_called(tmp_path, changes, reference):
    made = make(changes.pop("name", "x"), **changes)
    site = built([made], tmp_path / "site")
    (written,) = (site / "encoders").iterdir()
    (command,) = commands(read(written))
    assert parsed(command)["encoders"] == (reference,)
    assert ("is not in the zoo" in read(written)) == reference.startswith("PATH")


def test_records_of_another_protocol_version_say_which_version_to_install(tmp_path):
    changed = protocols.spec(protocols.find("linear")) | {"folds": 3}
    site = built([make("a", protocol=changed), make("b", seed=1)], tmp_path / "site")
    assert "other protocol settings" in read(site / "encoders/a.html")
    assert "other protocol settings" not in read(site / "encoders/b.html")


def test_downloaded_records_can_be_read_again(tmp_path):
    records = seeds(HOSTILE, 0.8)
    site = built(records, tmp_path / "site")
    (archive,) = (site / "records").iterdir()
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "again")
    again = record.read_records(tmp_path / "again")
    assert sorted(r.seal for r in again) == sorted(r.seal for r in records)


# The command.


def written(records: Sequence[record.Record], folder: Path) -> Path:
    for made in records:
        record.write(made, {}, folder)
    return folder


def test_the_command_writes_a_site_and_prints_where(tmp_path):
    runs = written([*seeds("a", 0.8), *seeds("b", 0.7)], tmp_path / "runs")
    for npz in runs.rglob("*.npz"):
        npz.unlink()
    result = CliRunner().invoke(main, ["report", str(runs), "-o", str(tmp_path / "site")])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'site' / 'index.html'}\n"
    assert (tmp_path / "site/encoders/a.html").is_file()


def test_the_command_refuses_a_foreign_folder_before_it_reads_records(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/y").write_text("")
    result = CliRunner().invoke(main, ["report", str(tmp_path / "none"), "-o", str(tmp_path / "x")])
    assert result.exit_code == 1
    assert "was not made by cxrzoo report" in result.output


def test_the_assets_lie_in_the_package():
    names = {p.name for p in page._ASSETS.iterdir()}
    assert names == {
        "base.html.j2",
        "copy.js",
        "encoder.html.j2",
        "index.html.j2",
        "leaderboard.js",
        "style.css",
    }


def test_the_page_shows_the_digits_of_the_table():
    """A half in binary: Python rounds to even, and JavaScript's toFixed would round it up."""
    records = [make(e, benchmark=b, auroc=0.8125, second=0.8125) for e in "ab" for b in ("x", "y")]
    records += [make("c", benchmark=b, auroc=v, second=v) for b, v in (("x", 0.9), ("y", 0.7))]
    grid = measure(records)
    data = index_data(grid, dict.fromkeys(grid.rows, ""))
    assert {cell[3] for cell in data["cells"] if cell[2] == 0.8125} == {"0.812"}
    row = next(str(i) for i, e in enumerate(data["encoders"]) if e["name"] == "a")
    (ranks,) = data["ranks"].values()
    assert ranks["of"][row][:2] == [2.0, "2.0"]
