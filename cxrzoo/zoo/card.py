"""The model card: the one place that says what an encoder is.

A card is a README.md whose YAML front matter follows ``Card``. Top-level keys that the
Hugging Face Hub reads (license, library_name, pipeline_tag, tags, datasets, base_model)
carry the Hub's own names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError, model_validator

from cxrzoo.errors import CardError
from cxrzoo.images import INTERPOLATIONS
from cxrzoo.schema import Strict, parse_yaml, plain_lines

CARD_FILE = "README.md"
CONFIG_FILE = "config.json"
_MAX_CARD_BYTES = 2_000_000
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Method = Literal[
    "none", "supervised", "moco", "simclr", "byol", "swav", "barlow", "vicreg", "dino", "unknown"
]


class Stage(Strict):
    """One step of a pretraining strategy; None where a fact is not known or not yet fixed."""

    method: Method
    data: str | None = Field(description="dataset, or kind of data: imagenet-1k, imagenet, cxr")
    pool: str | None = Field(None, description="the very images, where data is only their kind")
    init: str = Field(description="'random', or the strategy whose weights the stage starts from")
    num_images: int | None = None
    resolution_px: int | None = None
    epochs: float | None = Field(None, allow_inf_nan=False)
    caution: str | None = Field(None, description="what a reader of any table must know of data")
    source: str | None = Field(None, description="where the recipe comes from")

    @property
    def images(self) -> str:
        """What it was trained on, in words: ``imagenet (natural-pool)``."""
        return f"{self.data} ({self.pool})" if self.pool else self.data or "?"


class InputContract(Strict):
    """What the backbone expects: pixels scaled to ``range``, then (x - mean) / std."""

    channels: Literal[1, 3] = 3
    size_px: int = Field(ge=32, le=1024)
    range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"

    @model_validator(mode="after")
    def _consistent(self) -> InputContract:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std need {self.channels} values each (input.channels)")
        if min(self.std) <= 0 or self.range[0] >= self.range[1]:
            raise ValueError("std must be positive and range increasing")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}")
        return self


class Weights(Strict):
    """Where the weights are.

    ``file`` lies beside the card, or in the Hub repository ``repo_id`` at the commit ``revision``;
    ``seed`` draws them instead. ``drop`` are beginnings of names of tensors in the file that do not
    belong to the backbone: a classifier. ``format`` is one of ``cxrzoo convert``'s, where the file
    names its tensors in another way than timm. Without ``sha256`` the file's hash on the Hub is
    checked.
    """

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")] | None = None
    seed: int | None = None
    sha256: Sha256 | None = None
    repo_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")] | None = None
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    drop: tuple[str, ...] = ()
    format: str | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Weights:
        if (self.file is None) == (self.seed is None):
            raise ValueError("exactly one of file and seed says where the weights come from")
        if self.file is not None and not self.file.endswith(".safetensors"):
            raise ValueError("file must be a .safetensors file: pickles run code when opened")
        if self.sha256 is None and self.repo_id is None:
            raise ValueError("sha256 may be left out only of a file in a Hub repository (repo_id)")
        return self


class PretrainingData(Strict):
    """A dataset the weights have seen, for the exposure of benchmarks to it."""

    dataset: str
    split: str | None = None
    labels_seen: bool | None = None


class Card(Strict):
    """Front matter of a model card."""

    model_config = ConfigDict(populate_by_name=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9:/._@-]*$")]
    version: int = Field(1, ge=1, description="of the encoder; the Hub's tag is v<version>")
    verified: bool = Field(True, description="whether somebody has fetched and tried the weights")
    arch: Annotated[str, Field(pattern=r"^\w+$", description="a timm architecture")]
    tier: Literal["lite", "resnet50"] | None = None
    strategy: tuple[Stage, ...] = Field(min_length=1)
    input: InputContract
    license: str | None = None
    provenance: str
    weights: Weights | None = None
    pretraining_data: tuple[PretrainingData, ...] | None = None
    data_of_all_stages: bool = Field(
        False, description="pretraining_data names what the encoders it starts from saw, too"
    )
    library_name: str | None = None
    pipeline_tag: str | None = None
    tags: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    base_model: str | None = None
    license_name: str | None = Field(None, description="with license: other")
    license_link: str | None = None
    base_model_relation: Literal["finetune", "adapter", "merge", "quantized"] | None = None
    model_index: list[dict[str, Any]] | None = Field(None, alias="model-index")

    @property
    def has_weights(self) -> bool:
        """Whether weights exist at all, at hand or on the Hub."""
        return self.weights is not None

    @property
    def chain(self) -> str:
        """The strategy in one line: ``supervised on imagenet-1k -> moco on cxr-pool``."""
        return chain_of(self.strategy)


def chain_of(stages: Sequence[Stage]) -> str:
    """Stages in one line, as ``Card.chain``."""
    return " -> ".join(
        "random initialisation" if s.method == "none" else f"{s.method} on {s.images}"
        for s in stages
    )


def read_card(directory: Path) -> Card:
    """Read and check ``directory``/README.md; raises CardError naming the file and the field."""
    path = directory / CARD_FILE
    try:
        if path.stat().st_size > _MAX_CARD_BYTES:
            raise ValueError(f"larger than {_MAX_CARD_BYTES:,} bytes")
        front, _ = split_front_matter(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        raise CardError(
            f"{directory} is not a model card directory: no {CARD_FILE} in it"
        ) from None
    except ValueError as error:
        raise CardError(f"{path}: {error}") from None
    return parse_card(front, str(path))


def parse_card(front: dict[str, Any], where: str) -> Card:
    """Check front matter; ``where`` is how errors call its place."""
    for text in _texts(front):
        if not text.replace("\n", "").isprintable():
            raise CardError(
                f"{where}: {text[:40]!r} holds control characters, which a terminal obeys"
            )
    try:
        return Card.model_validate(front)
    except ValidationError as error:
        raise CardError(plain_lines(error, where)) from None
    except (ValueError, RecursionError) as error:  # numbers too long to be printed, and the like
        raise CardError(f"{where}: {error}") from None


def _texts(value: Any) -> Iterator[str]:
    """Every text in plain values, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def card_text(front: dict[str, Any], body: str) -> str:
    """A card's file from front matter and text."""
    header = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=96)
    return f"---\n{header}---\n\n{body.lstrip()}"


def split_front_matter(text: str) -> tuple[dict[str, Any], str]:
    """A card's front matter and the text behind it; raises ValueError when there is none."""
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        raise ValueError("no YAML front matter between two lines of '---' at the top")
    header, body = text[4:].split("\n---", 1)
    if not re.match(r"[-\s]*$", body.partition("\n")[0]):
        raise ValueError(
            "the line of '---' that ends the front matter goes on; readers would differ"
        )
    hidden = next((c for c in header if c not in "\n\t" and not c.isprintable()), None)
    if hidden is not None:
        raise ValueError(f"front matter holds the control character {hidden!r}, which hides text")
    front = parse_yaml(header, aliases=False)
    if not isinstance(front, dict):
        raise ValueError("front matter must be a mapping")
    return front, body.lstrip("-").lstrip("\n")
