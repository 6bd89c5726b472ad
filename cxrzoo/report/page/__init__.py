"""A static leaderboard: a folder of pages that open from disk, without a network or a server.

The same records give the same bytes. Every text goes through Jinja2's escaping, or reaches the
script as JSON and the page as text; a policy in each page forbids every request.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cxrzoo.errors import StorageError
from cxrzoo.evaluation.record import Record
from cxrzoo.files import replaced_folder, safe_name
from cxrzoo.report.grid import Grid, Row
from cxrzoo.report.naming import MARKS
from cxrzoo.report.page.cards import Cards, FoundCard, find_cards
from cxrzoo.report.page.data import as_json, index_data
from cxrzoo.report.page.encoder import describe
from cxrzoo.report.tables import as_csv, notes_of

MARKER = ".cxrzoo-site"
"""Only a folder with this file in it is ever replaced."""
_ASSETS = Path(__file__).with_name("site")
_PLAIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")


def build(
    grid: Grid,
    site: Path | str,
    directories: Iterable[Path | str] = (),
    *,
    on_page: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write the leaderboard of ``grid`` to the folder ``site``; what was there stays until then.

    Args:
        grid: what is shown.
        site: a new or empty folder, or a leaderboard made before, which is replaced.
        directories: folders of the records; cards below them are shown.
        on_page: called with the pages done and their number, for a progress bar.

    Returns:
        What the reader of the command's output should know: cards that could not be read.

    Raises:
        StorageError: ``site`` holds something else, or cannot be written.
    """
    directories = [Path(d) for d in directories]
    check_site(site, directories)
    site = Path(site).resolve()
    cards = find_cards(directories)
    with replaced_folder(site, "the leaderboard") as folder:
        _write_site(grid, folder, cards, on_page)
    return [f"card left out: {reason}" for reason in cards.broken]


def page_names(rows: Sequence[Row]) -> dict[Row, str]:
    """A file name, without its ending, for every encoder.

    Plain lower-case names stay; of others enough is kept to be recognised, and a hash makes them
    distinct, also where case does not count. ``~`` stands in no plain name.
    """
    return {row: _page_name(row.label) for row in rows}


def _page_name(label: str) -> str:
    if _PLAIN.fullmatch(label):
        return label
    kept = safe_name(label).encode("ascii", "ignore").decode().lower().lstrip(".-")[:60]
    digest = hashlib.sha256(label.encode()).hexdigest()
    return f"{kept or 'encoder'}~{digest[:12]}"


# Pages.


def _write_site(
    grid: Grid, folder: Path, cards: Cards, on_page: Callable[[int, int], None] | None
) -> None:
    names = page_names(grid.rows)
    pages = _Pages()
    version = _newest_version(grid.records)
    (folder / MARKER).write_text("made by cxrzoo report; replaced by the next one\n")
    (folder / "table.csv").write_text(as_csv(grid) + "\n", encoding="utf-8")
    _write(folder / "index.html", pages.index(grid, names, version))
    (folder / "encoders").mkdir()
    (folder / "records").mkdir()
    for done, row in enumerate(grid.rows, start=1):
        records = _records_of(grid, row)
        archive = _zipped(records)
        (folder / "records" / f"{names[row]}.zip").write_bytes(archive)
        card = cards.of(next(iter(records.values())))
        text = pages.encoder(grid, row, card, names, version=version, zip_bytes=len(archive))
        _write(folder / "encoders" / f"{names[row]}.html", text)
        if on_page is not None:
            on_page(done, len(grid.rows))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


class _Pages:
    """The templates with their style and scripts, which each page holds in itself."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(_ASSETS),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self._style = _asset("style.css")

    def index(self, grid: Grid, names: Mapping[Row, str], version: str) -> str:
        pages = {row: f"encoders/{name}.html" for row, name in names.items()}
        data = index_data(grid, pages)
        return self._render(
            "index.html.j2",
            "leaderboard.js",
            title="Leaderboard of chest-X-ray encoders",
            version=version,
            data=Markup(as_json(data)),
            grid=grid,
            pages=pages,
            groups=_groups(data["columns"]),
            choices=_choices(grid),
            notes=notes_of(grid),
            marks={state: mark.strip() for state, mark in MARKS.items() if mark},
        )

    def encoder(
        self,
        grid: Grid,
        row: Row,
        found: FoundCard | None,
        names: Mapping[Row, str],
        *,
        version: str,
        zip_bytes: int,
    ) -> str:
        pages = {row: f"{name}.html" for row, name in names.items()}
        return self._render(
            "encoder.html.j2",
            "copy.js",
            title=row.label,
            version=version,
            records_zip=f"../records/{names[row]}.zip",
            records_kb=max(1, round(zip_bytes / 1000)),
            **describe(grid, row, found, pages),
        )

    def _render(self, template: str, script: str, **values: Any) -> str:
        code = _asset(script)
        policy = (
            f"default-src 'none'; style-src '{_source(self._style)}'; "
            f"script-src '{_source(code)}'; base-uri 'none'; form-action 'none'"
        )
        return self._templates.get_template(template).render(
            style=Markup(self._style), script=Markup(code), policy=policy, **values
        )


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """How a content security policy names an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _groups(columns: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Benchmarks, external test sets and controls, by kind."""
    groups: dict[str, dict[str, None]] = {"own": {}, "external": {}, "control": {}}
    for column in columns:
        groups[column["kind"]][column["group"]] = None
    return {kind: list(names) for kind, names in groups.items() if names}


def _choices(grid: Grid) -> dict[str, list[tuple[str, str]]]:
    """Value and text of the options that depend on the records; budgets ascend, ``full`` last."""
    sizes = {column.budget for column in grid.columns}
    numbers = [str(n) for n in sorted(int(size) for size in sizes if size != "full")]
    budgets = [*numbers, *(["full"] if "full" in sizes else [])]
    tiers = sorted({row.tier for row in grid.rows})
    return {
        "protocol": [(c, c) for c in dict.fromkeys(c.protocol for c in grid.columns)],
        "budget": [("all", "all budgets"), *((b, b) for b in budgets)],
        "tier": [("all", "all tiers"), *((t, t or "without a tier") for t in tiers)],
    }


def _newest_version(records: Iterable[Record]) -> str:
    """Of cxrzoo, among those that made the records; a site carries no time of its own."""
    versions = {str(r.env.get("cxrzoo", "")) for r in records}
    return max(sorted(versions), key=lambda v: [int(n) for n in re.findall(r"\d+", v)], default="")


def _records_of(grid: Grid, row: Row) -> dict[str, Record]:
    """The records of a row, each once, by their file names."""
    found = {r.run_key: r for cell in grid.row(row) for r in cell.records}
    by_name = {r.file_name: r for r in found.values()}
    return {name: by_name[name] for name in sorted(by_name)}


def _zipped(records: Mapping[str, Record]) -> bytes:
    """Records as files that `read_record` accepts; the same bytes for the same records."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, record in records.items():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, record.model_dump_json(by_alias=True, indent=1) + "\n")
    return out.getvalue()


# The folder.


def check_site(site: Path | str, directories: Iterable[Path | str]) -> None:
    """Nothing but a leaderboard may be replaced, and never the records it was made from.

    Raises:
        StorageError: ``site`` is neither new nor empty nor a leaderboard, or holds the records.
    """
    site = Path(site).resolve()
    if site.exists() and not site.is_dir():
        raise StorageError(f"{site} is a file; the leaderboard needs a folder")
    for directory in map(Path, directories):
        if directory.resolve().is_relative_to(site):
            raise StorageError(f"{site} holds the records of {directory}; choose another folder")
    if site.is_dir() and any(site.iterdir()) and not (site / MARKER).is_file():
        raise StorageError(
            f"{site} is not empty and was not made by cxrzoo report; choose another folder, "
            "or empty it"
        )
