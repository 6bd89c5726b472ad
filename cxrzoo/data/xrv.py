"""What a benchmark file says about torchxrayvision's dataset classes; ``xrv_rows`` reads them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cxrzoo.schema import Strict


class Column(Strict):
    """A column of the class's table; ``pattern`` picks a part of its text by its first group."""

    column: str
    pattern: str | None = None


class Lookup(Strict):
    """Another table of the release (CSV or a JSON list): ``value`` where ``key`` is the row's
    ``by``."""

    files: tuple[str, ...]
    key: str
    value: str
    by: str


class Split(Strict):
    """Where a row's split is written, in a column or in another table, and what the words mean."""

    column: str | None = None
    lookup: Lookup | None = None
    values: dict[str, str]

    @model_validator(mode="after")
    def _one_place(self) -> Split:
        if (self.column is None) == (self.lookup is None):
            raise ValueError("exactly one of column and lookup says where the split is")
        return self


class Uncertain(Strict):
    """Uncertain labels as a value of the label's column, called ``columns[label]`` if not alike."""

    value: float
    columns: dict[str, str] = Field(default_factory=dict)


class Readers(Strict):
    """Several readers an image: columns of the class's ``rawcsv``, one row a finding."""

    image: str
    reader: str
    finding: str


class Negative(Strict):
    """Labels by a column's text: negative where it is one of ``values``, else positive."""

    column: str
    values: tuple[str, ...]


class Part(Strict):
    """One torchxrayvision dataset class on one folder.

    ``images`` is where the files are below ``folder``, a folder or a zip file; ``imgpath`` what
    the class is told (some append their own subfolder). ``files`` are arguments that name
    files of the release, with the names to look for; where none is there and ``bundled`` is
    true, the class uses the copy that comes with torchxrayvision, if it has one. ``file`` are
    templates of an image's path below ``images`` from ``{id}`` and columns, the first that
    exists is taken; with ``anywhere``, a file of that name in any folder below is.
    Patients come from the names in ``origins`` where there are such, else from ``patient``;
    without either, each image counts as a patient.
    """

    dataset: str
    folder: str
    images: str
    imgpath: str | None = None
    files: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    bundled: bool = True
    arguments: dict[str, Any] = Field(default_factory=dict)
    image: Column
    file: tuple[str, ...] = ("{id}",)
    anywhere: bool = False
    repeated: bool = Field(False, description="an image may have several rows: positive if any is")
    origins: Lookup | None = None
    patient: Column | None = None
    split: str | Split = ""
    covariates: dict[str, Column] = Field(default_factory=dict)
    uncertain: Uncertain | None = None
    readers: Readers | None = None
    negative: dict[str, Negative] = Field(
        default_factory=dict, description="labels that are not taken from the class"
    )


class XrvSource(Strict):
    """Rows of torchxrayvision's own dataset classes."""

    kind: Literal["torchxrayvision"]
    parts: tuple[Part, ...]

    @property
    def covariates(self) -> list[str]:
        """Names of the covariates that any part has."""
        return sorted({name for part in self.parts for name in part.covariates})

    @property
    def has_uncertain(self) -> bool:
        """Whether a label may be ``UNCERTAIN``."""
        return any(part.uncertain for part in self.parts)

    @property
    def has_readers(self) -> bool:
        """Whether a label may be a share of readers."""
        return any(part.readers for part in self.parts)
