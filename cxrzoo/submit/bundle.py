"""Bundles: one encoder's card, records and predictions over a required grid.

A bundle is a folder or a zip file: ``bundle.json``, ``card/README.md`` and ``card/config.json``
(with the weights beside them if the submitter wants), and below ``records/`` the record of each
cell with its predictions. A results folder holds one such folder for each encoder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from cxrzoo import __version__
from cxrzoo.evaluation.record import Record
from cxrzoo.files import replaced_folder, safe_name, sha256_of_json, write_atomically
from cxrzoo.schema import Strict, plain_lines
from cxrzoo.submit.container import BundleError, read_files, sha256_of, write_zip
from cxrzoo.submit.strict import parse_json
from cxrzoo.zoo.card import CARD_FILE, CONFIG_FILE, Sha256

SCHEMA = "cxrzoo.bundle/1"
MANIFEST = "bundle.json"
CARD, RECORDS = "card", "records"


class Manifest(Strict):
    """``bundle.json``: whose results these are, and the hash of every other file."""

    schema_: Literal["cxrzoo.bundle/1"] = Field(alias="schema")
    encoder: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9:/._@-]*$")]
    weights_sha256: Sha256
    grid: str
    cxrzoo: Annotated[str, Field(pattern=r"^[0-9A-Za-z.+!_-]{1,40}$")]
    files: dict[str, Sha256]


@dataclass(frozen=True)
class Bundle:
    """A bundle's manifest, and the contents of all its files by name."""

    manifest: Manifest
    files: Mapping[str, bytes]

    @property
    def folder(self) -> str:
        """What its folder is called among results."""
        return safe_name(self.manifest.encoder)

    @property
    def sha256(self) -> str:
        """One hash of all contents."""
        return sha256_of_json(self.manifest.model_dump(mode="json"))

    @property
    def record_names(self) -> list[str]:
        """Names of the record files."""
        return [n for n in self.files if n.startswith(f"{RECORDS}/") and n.endswith(".json")]


def assemble(card: Mapping[str, bytes], records: Sequence[Record], runs: Path, grid: str) -> Bundle:
    """A bundle of the records of one encoder.

    Args:
        card: contents of the card directory's files, by name.
        records: one a cell.
        runs: the folder that records and predictions were written to.
        grid: the name of the grid they fill.
    """
    files = {f"{CARD}/{name}": content for name, content in card.items()}
    for record in records:
        path = runs / record.file_name
        for one in (path, path.with_suffix(".npz")):
            name = PurePosixPath(RECORDS, one.relative_to(runs).as_posix())
            files[str(name)] = one.read_bytes()
    spec = records[0].spec.encoder
    return seal(files, encoder=spec.name, weights_sha256=spec.weights_sha256, grid=grid)


def seal(files: Mapping[str, bytes], **about: Any) -> Bundle:
    """A bundle of these files, with the manifest that lists them."""
    files = {name: content for name, content in sorted(files.items()) if name != MANIFEST}
    manifest = Manifest(
        schema=SCHEMA,
        cxrzoo=__version__,
        files={name: sha256_of(content) for name, content in files.items()},
        **about,
    )
    text = json.dumps(manifest.model_dump(mode="json", by_alias=True), indent=1)
    return Bundle(manifest, {MANIFEST: f"{text}\n".encode(), **files})


def read(path: Path) -> Bundle:
    """Read a folder or zip file whose names, sizes and manifest hold.

    Raises:
        BundleError: with one line for each problem.
    """
    files = read_files(path)
    if MANIFEST not in files:
        raise BundleError(
            f"{path}: no {MANIFEST} in it, so it is no bundle (`cxrzoo submit` makes one), nor can "
            "a whole checkout of results be checked without --base"
        )
    manifest = parse_manifest(parse_json(files[MANIFEST], MANIFEST))
    problems = _compare(manifest, files)
    if problems:
        raise BundleError("\n".join(problems))
    return Bundle(manifest, files)


def write(bundle: Bundle, path: Path) -> None:
    """Write a bundle to a folder, or to a zip file where ``path`` ends in .zip.

    What is there before is replaced if it is a bundle of the same encoder, else refused.
    """
    if path.exists() and not _may_replace(path, bundle):
        raise BundleError(
            f"{path} exists and is no bundle of {bundle.manifest.encoder}: choose another place"
        )
    if path.suffix == ".zip":
        write_atomically(path, write_zip(bundle.files))
        return
    with replaced_folder(path, "the bundle") as fresh:
        for name, content in bundle.files.items():
            write_atomically(fresh / name, content)


def check_schema(content: Any, name: str, ours: str) -> None:
    """Raise BundleError, with advice, where a file is of another schema than ours."""
    theirs = content.get("schema") if isinstance(content, dict) else None
    kind = ours.split("/")[0]
    if isinstance(theirs, str) and theirs.startswith(f"{kind}/") and theirs != ours:
        raise BundleError(
            f"{name}: has schema {theirs[:40]!r}, and this cxrzoo ({__version__}) reads {ours!r}: "
            "update cxrzoo, or submit with the version that reads it"
        )


def parse_manifest(content: Any) -> Manifest:
    """A manifest from its JSON value; raises BundleError."""
    check_schema(content, MANIFEST, SCHEMA)
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise BundleError(plain_lines(error, MANIFEST)) from None


def _compare(manifest: Manifest, files: Mapping[str, bytes]) -> list[str]:
    """What of the files is not as the manifest lists them."""
    listed = manifest.files
    problems = [f"{n}: listed in {MANIFEST} but missing" for n in listed if n not in files]
    for name, content in files.items():
        if name == MANIFEST:
            continue
        if name not in listed:
            problems.append(f"{name}: not listed in {MANIFEST}; take it out")
        elif sha256_of(content) != listed[name]:
            problems.append(f"{name}: altered after the bundle was made (sha256 differs)")
    return problems


def _may_replace(path: Path, bundle: Bundle) -> bool:
    if path.is_dir() and not any(path.iterdir()):
        return True
    try:
        return read(path).manifest.encoder == bundle.manifest.encoder
    except BundleError:
        return False


def card_files(directory: Path, weights: Path | None = None) -> dict[str, bytes]:
    """The files of a card directory that go into a bundle, and a weights file if one is given."""
    names = [directory / CARD_FILE, directory / CONFIG_FILE, *([weights] if weights else [])]
    try:
        return {path.name: path.read_bytes() for path in names}
    except FileNotFoundError as error:
        raise BundleError(
            f"{error.filename}: missing; `cxrzoo convert` writes all files of an encoder"
        ) from None
