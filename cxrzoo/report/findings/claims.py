"""The claims file: what is claimed, how it is tested, and what other studies measured."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from cxrzoo.errors import RecordError
from cxrzoo.schema import Strict, parse_yaml, plain_lines

ClaimId = Literal["hard-to-beat", "imagenet-like-cxr", "continued-improves"]
Kind = Literal["imagenet", "cxr"]
CLAIMS_FILE = Path(__file__).with_name("claims.yaml")


class Labels(Strict):
    """A range of numbers of labelled images, ends included."""

    at_least: int
    at_most: int | None = None

    def __contains__(self, n: int) -> bool:
        return self.at_least <= n and (self.at_most is None or n <= self.at_most)

    @property
    def words(self) -> str:
        """``1,000 to 5,000 labels``."""
        if self.at_most is None:
            return f"more than {self.at_least - 1:,} labels"
        if self.at_least == 1:
            return f"up to {self.at_most:,} labels"
        return f"{self.at_least:,} to {self.at_most:,} labels"


class Study(Strict):
    """What another study measured, in its own numbers."""

    study: str
    numbers: str
    evidence: Literal["recomputed", "table", "plot", "abstract"]
    note: str = ""
    source: str
    bearing: Literal["for", "against", "mixed"]


class Claim(Strict):
    """One claim of the paper."""

    id: ClaimId
    sentence: str
    rule: str = Field(description="what is measured, and which outcome gives which verdict")
    studies: tuple[Study, ...] = Field(min_length=1)
    studies_note: str = ""


class Claims(Strict):
    """The whole file.

    ``margin``: AUROC differences below it count as none. ``kinds``: what strategies call data,
    by kind. ``shortcut_benchmarks``: benchmarks that no verdict rests on, and why.
    """

    paper: str
    margin: float = Field(gt=0, lt=0.1)
    margin_reason: str
    min_benchmarks: int = Field(ge=3)
    min_benchmarks_reason: str
    min_seeds: int = Field(ge=2)
    budgets: tuple[int | Literal["full"], ...]
    seeds: int
    few_labels: Labels
    few_thousand_labels: Labels
    many_labels: Labels
    kinds: dict[Kind, tuple[str, ...]]
    shortcut_benchmarks: dict[str, str]
    claims: tuple[Claim, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Claims:
        if self.seeds < self.min_seeds:
            raise ValueError("seeds are fewer than min_seeds: no run could end in a verdict")
        if len({claim.id for claim in self.claims}) < 3 or len(self.claims) != 3:
            raise ValueError("each of the three claims must be there once")
        return self


@cache
def load_claims(path: Path = CLAIMS_FILE) -> Claims:
    """Read and check the claims file; raises RecordError naming the field."""
    try:
        return Claims.model_validate(parse_yaml(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise RecordError(plain_lines(error, str(path))) from None
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: {error}") from None
