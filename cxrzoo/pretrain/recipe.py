"""Recipes: how a pretraining stage is trained, as data, each value with its source.

A recipe is one YAML file a method and tier below ``recipes/``. Pure values, no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, FiniteFloat, ValidationError, model_validator

from cxrzoo import resources
from cxrzoo.errors import RecipeError, UnknownNameError
from cxrzoo.schema import Strict, parse_yaml, plain_lines

Start = Literal["scratch", "continued"]

Section = Literal["imagenet", "cxr", "continued"]

SECTIONS: tuple[Section, ...] = ("imagenet", "cxr", "continued")
"""Of a recipe; the first is complete, each later one states what differs from the one before."""

PHOTOGRAPHS = frozenset({"imagenet", "imagenet-1k"})
"""Names of training data that are photographs; all others are chest X-rays."""


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1]:
        raise ValueError(f"expected 0 < low <= high, not ({pair[0]}, {pair[1]})")
    return pair


def _shares(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1] <= 1:
        raise ValueError("must be two shares of the area, the smaller one first")
    return pair


Range = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_rising)]
AreaRange = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_shares)]


class LocalViews(Strict):
    """Smaller views after the first two, for methods that take them (SwAV, DINO).

    All but size and crop is as in the first two.
    """

    count: int = Field(ge=1)
    size_px: int = Field(ge=32)
    crop_scale: AreaRange = Field(description="share of the image's area")


class Views(Strict):
    """How two views of an image are made, on the training device.

    Lengths are shares of the image's side, probabilities are per image and view.
    """

    size_px: int = Field(ge=32)
    crop_scale: AreaRange = Field(description="share of the image's area")
    crop_ratio: Range = Field((3 / 4, 4 / 3), description="width by height")
    rotation_deg: FiniteFloat = Field(0.0, ge=0, description="either way, at most")
    flip_probability: float = Field(0.0, ge=0, le=1)
    brightness: FiniteFloat = Field(0.0, ge=0, description="factor from 1 - b to 1 + b")
    contrast: FiniteFloat = Field(0.0, ge=0)
    saturation: FiniteFloat = Field(0.0, ge=0)
    hue: float = Field(0.0, ge=0, le=0.5, description="turns of the colour circle, at most")
    jitter_probability: float = Field(1.0, ge=0, le=1)
    grey_probability: float = Field(0.0, ge=0, le=1)
    blur_probability: float = Field(0.0, ge=0, le=1)
    blur_sigma: Range = Field((0.1, 2.0), description="in pixels at 224 px")
    noise_std: FiniteFloat = Field(0.0, ge=0, description="of grey levels in [0, 1]")
    local: LocalViews | None = None


class Optimiser(Strict):
    """Optimiser and its schedule: linear warm-up, then a cosine to zero."""

    name: Literal["sgd", "adamw", "lars"]
    learning_rate: FiniteFloat = Field(gt=0, description="at its highest, for the batch as it is")
    weight_decay: FiniteFloat = Field(0.0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd and lars")
    warmup_steps: int = Field(0, ge=0)
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="learning rate of a layer of the backbone relative to the one after it",
    )

    @model_validator(mode="after")
    def _lars_decays(self) -> Optimiser:
        if self.name == "lars" and not self.weight_decay:
            # lightly's LARS leaves weights without decay unscaled, at rates of several units
            raise ValueError("weight_decay: lars needs some, however little")
        return self


class Settings(Strict):
    """Everything that can change the weights a stage ends with."""

    images_seen: int = Field(gt=0, description="images, each with its views")
    batch_size: int = Field(gt=1, description="images, over all processes")
    optimiser: Optimiser
    views: Views
    batchnorm: Literal["train", "frozen"] = Field(
        "train",
        description="frozen: the statistics of the start are kept; those of random weights change "
        "nothing, and are replaced by the images' at the end, which changes nothing either",
    )
    silent_residuals: bool = Field(
        False,
        description="random weights begin with every residual block as the identity",
    )
    average_with_start: float = Field(
        0.0, ge=0, lt=1, description="share of the starting weights in the final ones"
    )
    frozen_stages: int = Field(
        0, ge=0, description="stages at the input that stay as they were, 1 being the stem"
    )
    method: dict[str, Any] = Field(default_factory=dict, description="of the method's own schema")
    store_px: int = Field(
        ge=32, description="side at which the pool is kept; crops are taken of it"
    )
    min_px: int = Field(0, ge=0, description="images with a shorter side than this are left out")

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return max(1, round(self.images_seen / self.batch_size))

    @model_validator(mode="after")
    def _longer_than_its_start(self) -> Settings:
        warmup = self.optimiser.warmup_steps
        if warmup >= self.steps:
            raise ValueError(
                f"optimiser.warmup_steps: {warmup:,} leave nothing of a training of "
                f"{self.steps:,} steps"
            )
        return self


class Recipe(Strict):
    """How a method is trained at a tier.

    Attributes:
        imagenet: from random weights, on photographs.
        cxr: from random weights, on chest X-rays.
        continued: trained weights trained further, on chest X-rays.
        note: how far it has been tried.
        sources: where each stated value is from, by its path (``imagenet.batch_size``): a paper,
            a repository, or ``ours``.
    """

    method: str
    tier: str
    title: str
    note: str = ""
    imagenet: Settings
    cxr: Settings
    continued: Settings
    sources: dict[str, str]

    def settings(self, data: str, start: Start) -> Settings:
        """The settings for training data (``imagenet``, ``cxr-pool``) and a start.

        Raises:
            RecipeError: for photographs, trained weights are no start.
        """
        found: Settings = getattr(self, section_of(data, start))
        return found

    def sources_of(self, data: str, start: Start) -> dict[str, str]:
        """Where each stated value of these settings is from, by its path (``views.size_px``).

        A value that a section takes over keeps its source. Order is that of the file.
        """
        section = section_of(data, start)
        sources: _Leaves = {}
        for name in SECTIONS[: SECTIONS.index(section) + 1]:
            stated = {
                tuple(path.split(".")[1:]): _Leaf(None, source)
                for path, source in self.sources.items()
                if path.startswith(f"{name}.")
            }
            sources = _over(sources, stated)
        return {".".join(path): leaf.source for path, leaf in sources.items()}


def section_of(data: str, start: Start) -> Section:
    """The section of a recipe that is about this training data and start; raises RecipeError."""
    if data not in PHOTOGRAPHS:
        return "cxr" if start == "scratch" else "continued"
    if start == "continued":
        raise RecipeError("no recipe trains trained weights further on photographs")
    return "imagenet"


def list_recipes() -> list[str]:
    """``method-tier`` of every recipe, sorted."""
    return sorted(path.stem for path in resources.RECIPES.glob("*.yaml"))


def find_recipe(method: str, tier: str) -> Recipe:
    """The packaged recipe of a method and tier; raises UnknownNameError."""
    name = f"{method}-{tier}"
    if name not in list_recipes():
        raise UnknownNameError("recipe", name, list_recipes())
    return read_recipe(resources.RECIPES / f"{name}.yaml")


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe file.

    Every value of a section is written as ``{value: ..., source: ...}``. ``cxr`` holds only what
    differs from ``imagenet``, and ``continued`` only what differs from ``cxr``.

    Raises:
        RecipeError: naming the file and the field.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
        whole: dict[str, Any] = {"sources": {}}
        leaves: _Leaves = {}
        for section in SECTIONS:
            stated = _leaves(content.pop(section), (section,))
            whole["sources"] |= {".".join(key): leaf.source for key, leaf in stated.items()}
            leaves = _over(leaves, {key[1:]: leaf for key, leaf in stated.items()})
            whole[section] = _tree(leaves)
        recipe = Recipe.model_validate({**content, **whole})
    except ValidationError as error:
        raise RecipeError(plain_lines(error, str(path))) from None
    except KeyError as error:
        raise RecipeError(f"{path}: section {error} is missing") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise RecipeError(f"{path}: {error}") from None
    if path.stem != f"{recipe.method}-{recipe.tier}":
        raise RecipeError(f"{path}: it is about {recipe.method} at tier {recipe.tier}")
    return recipe


def with_changes(settings: Settings, changes: Sequence[str]) -> Settings:
    """The settings with values changed: ``optimiser.learning_rate=0.01``, ``views.local=null``.

    Values are YAML. Any key of ``method`` is accepted here; the method's own schema checks it.

    Raises:
        RecipeError: naming a setting that is not known, or one whose value is refused.
    """
    content = settings.model_dump()
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise RecipeError(f"'{change}' changes no setting: expected name=value")
        _check_name(name)
        *above, last = name.split(".", 1) if name.startswith("method.") else name.split(".")
        place = content
        for key in above:
            if place[key] is None:  # local views where there were none
                place[key] = {}
            place = place[key]
        place[last] = _scalar(name, text)
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        raise RecipeError(plain_lines(error, "changed settings")) from None


def _check_name(name: str) -> None:
    if name.startswith("method.") and name != "method.":
        return
    known = [*_names(Settings), *(f"views.local.{key}" for key in LocalViews.model_fields)]
    if name not in known:
        raise RecipeError(str(UnknownNameError("setting", name, known)))


def _names(schema: type[Strict], prefix: str = "") -> list[str]:
    """Paths of a schema's values, those of the schemas in it included."""
    names = []
    for key, field in schema.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Strict):
            names += _names(inner, f"{prefix}{key}.")
        elif f"{prefix}{key}" != "method":
            names.append(prefix + key)
    return names


def _scalar(name: str, text: str) -> Any:
    """A value written on a command line; YAML takes 1e-4 for a word, which it is not here."""
    if re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", text):
        return float(text)
    try:
        return parse_yaml(text, aliases=False)
    except ValueError as error:
        raise RecipeError(f"changed settings: {name}: {error}") from None


class _Leaf(NamedTuple):
    """A value of a recipe file."""

    value: Any
    source: str


_Path = tuple[str, ...]
_Leaves = dict[_Path, _Leaf]


def _leaves(node: Any, path: _Path) -> _Leaves:
    """Every ``{value, source}`` below a node, by its path."""
    if isinstance(node, dict) and set(node) == {"value", "source"} and _is_text(node["source"]):
        return {path: _Leaf(node["value"], node["source"])}
    if not isinstance(node, dict):
        where = ".".join(path)
        raise ValueError(f"{where}: a value needs its source: {{value: ..., source: ...}}")
    return {
        place: leaf
        for key, inner in node.items()
        for place, leaf in _leaves(inner, (*path, str(key))).items()
    }


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _over(base: _Leaves, changes: _Leaves) -> _Leaves:
    """``base`` with the values of ``changes``, which also replace what lies above or below them."""
    above = {path[:length] for path in changes for length in range(1, len(path))}
    kept = {
        path: leaf
        for path, leaf in base.items()
        if path not in above and not any(path[:length] in changes for length in range(1, len(path)))
    }
    return kept | changes


def _tree(leaves: _Leaves) -> dict[str, Any]:
    """Nested values."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf.value
    return tree
