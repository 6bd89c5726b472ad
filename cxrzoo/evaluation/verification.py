"""Who besides its submitter has checked a record: maintainers' files beside the results.

A record without an entry is ``self-reported``. ``recomputed``: a maintainer computed its metrics
again from its predictions and the labels. ``rerun``: a maintainer repeated cells of its bundle with
the encoder's weights. The files lie in ``RESULTS/verification/``, where no submission may write.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from cxrzoo.errors import RecordError
from cxrzoo.files import safe_name, write_atomically
from cxrzoo.schema import Strict, parse_yaml, plain_lines
from cxrzoo.zoo.card import Sha256

FOLDER = "verification"
SELF_REPORTED = "self-reported"
MIN_RERUN = 3
"""Cells of a bundle that must have been repeated for tier ``rerun``, or all where there are fewer.
They are drawn by a hash, one of each benchmark first: see ``cxrzoo.submit.rerun``."""

Tier = Literal["recomputed", "rerun"]


class Verification(Strict):
    """What maintainers have checked of one encoder's records, by the records' digests.

    ``records``: those whose metrics came out the same from predictions and labels; ``rerun``: those
    among them whose cells were repeated. With tier ``rerun`` all of ``records`` count as rerun,
    since the cells that were repeated (``MIN_RERUN`` at least) were not of the submitter's choice.
    """

    schema_: Literal["cxrzoo.verification/1"] = Field("cxrzoo.verification/1", alias="schema")
    encoder: str
    weights_sha256: Sha256
    tier: Tier
    records: tuple[Sha256, ...] = Field(min_length=1)
    rerun: tuple[Sha256, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Verification:
        strangers = set(self.rerun) - set(self.records)
        if strangers:
            raise ValueError(f"rerun has {min(strangers)}, which is not among records")
        if self.tier != tier_of(len(self.records), len(set(self.rerun))):
            raise ValueError(
                f"tier {self.tier} does not go with {len(set(self.rerun))} cells repeated of "
                f"{len(self.records)}: rerun needs {MIN_RERUN}, or all where there are fewer"
            )
        return self


def tier_of(records: int, rerun: int) -> Tier:
    """The tier of a bundle with so many records recomputed and so many cells repeated."""
    return "rerun" if rerun >= min(MIN_RERUN, records) else "recomputed"


def path_of(results: Path, encoder: str) -> Path:
    """Where the verification of an encoder lies below a results folder."""
    return results / FOLDER / f"{safe_name(encoder)}.yaml"


def write(results: Path, verification: Verification) -> Path:
    """Write a verification into a results folder."""
    path = path_of(results, verification.encoder)
    content = verification.model_dump(mode="json", by_alias=True)
    write_atomically(path, yaml.safe_dump(content, sort_keys=False, width=96).encode())
    return path


def read(path: Path) -> Verification:
    """Read and check one verification; raises RecordError naming the file and the field."""
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), aliases=False)
        return Verification.model_validate(content)
    except ValidationError as error:
        raise RecordError(plain_lines(error, str(path))) from None
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: not a verification ({error})") from None


def tiers(directories: Iterable[Path | str]) -> dict[str, str]:
    """``recomputed`` or ``rerun`` by a record's digest; what is absent is self-reported.

    Only ``verification/`` directly below a folder counts: a file deeper down may be a submitter's.
    """
    found: dict[str, str] = {}
    for directory in map(Path, directories):
        for path in sorted((directory / FOLDER).glob("*.yaml")):
            verification = read(path)
            for digest in verification.records:
                if found.get(digest) != "rerun":
                    found[digest] = verification.tier
    return found
