"""Recipes: how a pretraining stage is trained, as data, each value with its source.

A recipe is one YAML file a method and tier below ``recipes/``. Pure values, no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from cxrzoo import resources
from cxrzoo.errors import RecipeError, UnknownNameError
from cxrzoo.schema import Strict, parse_yaml, plain_lines

Start = Literal["scratch", "continued"]


class Views(Strict):
    """How two views of an image are made, on the training device.

    Lengths are shares of the image's side, probabilities are per image and view.
    """

    size_px: int = Field(ge=32)
    crop_scale: tuple[float, float] = Field(description="share of the image's area")
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    rotation_deg: float = 0.0
    flip_probability: float = Field(0.0, ge=0, le=1)
    brightness: float = Field(0.0, ge=0, description="factor from 1 - b to 1 + b")
    contrast: float = Field(0.0, ge=0)
    saturation: float = Field(0.0, ge=0)
    hue: float = Field(0.0, ge=0, le=0.5)
    jitter_probability: float = Field(1.0, ge=0, le=1)
    grey_probability: float = Field(0.0, ge=0, le=1)
    blur_probability: float = Field(0.0, ge=0, le=1)
    blur_sigma: tuple[float, float] = Field((0.1, 2.0), description="in pixels at 224 px")
    noise_std: float = Field(0.0, ge=0, description="of grey levels in [0, 1]")

    @model_validator(mode="after")
    def _increasing(self) -> Views:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError("crop_scale must be two shares of the area, the smaller one first")
        return self


class Optimiser(Strict):
    """Optimiser and its schedule: linear warm-up, then a cosine to zero."""

    name: Literal["sgd", "adamw", "lars"]
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(0.0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd and lars")
    warmup_steps: int = Field(0, ge=0)


class Settings(Strict):
    """Everything that can change the weights a stage ends with."""

    images_seen: int = Field(gt=0, description="images, each with its views")
    batch_size: int = Field(gt=1)
    optimiser: Optimiser
    views: Views
    batchnorm: Literal["train", "frozen"] = Field(
        "train", description="frozen: the statistics of the start are kept"
    )
    average_with_start: float = Field(
        0.0, ge=0, lt=1, description="share of the starting weights in the final ones"
    )
    method: dict[str, Any] = Field(default_factory=dict, description="of the method's own schema")

    store_px: int = Field(
        ge=32, description="side at which the pool is kept; crops are taken of it"
    )

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return max(1, round(self.images_seen / self.batch_size))


class Recipe(Strict):
    """How a method is trained at a tier: from random weights, and from trained ones.

    ``sources`` say where each value is from, by its path (``scratch.batch_size``): a paper, a
    repository, or ``ours``.
    """

    method: str
    tier: str
    title: str
    scratch: Settings
    continued: Settings
    sources: dict[str, str]

    def settings(self, start: Start) -> Settings:
        """The settings for a start."""
        return self.scratch if start == "scratch" else self.continued


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

    Every value of ``scratch`` and ``continued`` is written as ``{value: ..., source: ...}``;
    ``continued`` holds only what differs from ``scratch``.

    Raises:
        RecipeError: naming the file and the field.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
        sources: dict[str, str] = {}
        scratch = _plain(content.pop("scratch"), "scratch", sources)
        changes = _plain(content.pop("continued"), "continued", sources)
        whole = {"scratch": scratch, "continued": _merged(scratch, changes), "sources": sources}
        recipe = Recipe.model_validate({**content, **whole})
    except ValidationError as error:
        raise RecipeError(plain_lines(error, str(path))) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"{path}: {error}") from None
    if path.stem != f"{recipe.method}-{recipe.tier}":
        raise RecipeError(f"{path}: it is about {recipe.method} at tier {recipe.tier}")
    return recipe


def _plain(node: Any, path: str, sources: dict[str, str]) -> Any:
    """The values of a tree of ``{value, source}``; their sources go into ``sources``."""
    if isinstance(node, dict) and set(node) == {"value", "source"}:
        sources[path] = str(node["source"])
        return node["value"]
    if not isinstance(node, dict):
        raise ValueError(f"{path}: a value needs its source: {{value: ..., source: ...}}")
    return {key: _plain(inner, f"{path}.{key}", sources) for key, inner in node.items()}


def _merged(base: Any, changes: Any) -> Any:
    """``base`` with the values of ``changes``, however deep they lie."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    return base | {key: _merged(base.get(key), value) for key, value in changes.items()}
