"""What a stage of pretraining is made of, decided before anything is trained."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cxrzoo import arrays, images, resources
from cxrzoo.data.pool import Pool, refuse_unreadable, sizes
from cxrzoo.errors import RecipeError
from cxrzoo.files import safe_name, sha256_of_json
from cxrzoo.pretrain.methods import find_method
from cxrzoo.pretrain.recipe import Recipe, Settings, Start
from cxrzoo.pretrain.train import VERSION
from cxrzoo.zoo.card import Card
from cxrzoo.zoo.encoder import Encoder


@dataclass(frozen=True)
class Request:
    """What is to be trained, and with what.

    Attributes:
        strategy: its name in the zoo.
        tier: the scale.
        data_root: folder that holds the data.
        output: folder of the card directories that are made.
        pools: pools by what strategies call their data, where not those of the tier.
        inits: encoders to start from, by strategy, where not those of the zoo or trained here.
        changes: ``key=value`` for settings other than the recipe's: of the strategy that is asked
            for, or with ``STRATEGY:`` before them of one it starts from.
        seed: of weights and batches.
        watch: benchmark whose k-NN score is followed; None for none.
        restart: throw away the checkpoints of the strategy that is asked for.
        workers: decoding threads.
    """

    strategy: str
    tier: str
    data_root: Path | None
    output: Path
    pools: dict[str, str] = field(default_factory=dict)
    inits: dict[str, str] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    seed: int = 0
    watch: str | None = None
    restart: bool = False
    workers: int | None = None

    def changes_of(self, strategy: str) -> tuple[str, ...]:
        """The changes that are meant for a stage."""
        own = []
        for change in self.changes:
            of, colon, _ = change.partition("=")[0].partition(":")
            if not colon and strategy == self.strategy:
                own.append(change)
            elif colon and of == strategy:
                own.append(change[len(of) + 1 :])
        return tuple(own)


@dataclass(frozen=True)
class Plan:
    """One stage, decided: what is trained on what, from what, and how.

    ``strategy`` is its name in the zoo, ``card`` the card that its encoder will have at the tier,
    ``changes`` are the user's to its recipe.
    """

    strategy: str
    card: Card
    recipe: Recipe
    start: Start
    settings: Settings
    changes: tuple[str, ...]
    parent: Encoder | None
    pool: Pool
    pixels: arrays.DiskArray
    request: Request

    @property
    def key(self) -> str:
        """sha256 of everything that can change the weights."""
        whole = self.settings.model_copy(update={"method": self.method_settings.model_dump()})
        return sha256_of_json(
            [
                VERSION,
                self.recipe.method,
                self.card.arch,
                self.card.input.model_dump(mode="json"),
                whole.model_dump(mode="json"),
                None if self.parent is None else self.parent.weights_sha256,
                self.pixels.sha256,
                None if self.labels is None else hashlib.sha256(self.labels.tobytes()).hexdigest(),
                self.request.seed,
            ]
        )

    @property
    def method_settings(self) -> Any:
        """The method's own settings, its defaults included."""
        return find_method(self.recipe.method).Settings.model_validate(self.settings.method)

    @property
    def labels(self) -> np.ndarray | None:
        """The pool's labels, where the method needs them."""
        return self.pool.labels if find_method(self.recipe.method).needs_labels else None

    @property
    def directory(self) -> Path:
        """Where the encoder goes."""
        return self.request.output / self.card.name

    @property
    def training(self) -> Path:
        """Where checkpoints and log go: beside the card directory, which holds an encoder alone."""
        return self.request.output / "training" / self.card.name


def labelled(pool: Pool) -> Pool:
    """The images of the pool whose labels are known at all.

    Raises:
        RecipeError: there are none.
    """
    if pool.labels is None:
        raise RecipeError(f"pool {pool.name} has no labels, which this method needs")
    known = pool.labels >= 0
    kept = pool.keep(np.any(known.reshape(len(pool), -1), axis=1))
    if not len(kept):
        raise RecipeError(f"pool {pool.name}: not one label is known")
    return kept


def large_enough(pool: Pool, settings: Settings, workers: int | None) -> Pool:
    """The pool without the images that are smaller than the recipe wants."""
    if not settings.min_px:
        return pool
    shorter: np.ndarray = sizes(pool, workers).min(1)
    kept = pool.keep(np.greater_equal(shorter, settings.min_px))
    if not len(kept):
        raise RecipeError(f"pool {pool.name}: no image of it has {settings.min_px} px (min_px)")
    return kept


def decoded(
    pool: Pool, settings: Settings, *, colour: bool, workers: int | None
) -> arrays.DiskArray:
    """The pool decoded once, (N, S, S) grey or (N, S, S, 3) colour uint8.

    Raises:
        DataError: images of it cannot be read; it names the first ones.
    """
    size = settings.store_px
    row = (size, size, 3) if colour else (size, size)

    def one(index: int) -> np.ndarray:
        image = pool.images.colour(index) if colour else pool.images.grey(index)
        return images.fit(image, size)

    key = sha256_of_json([pool.images.key, size, colour, images.VERSION])
    built = arrays.open_or_build(
        resources.cache_dir() / "pools" / f"{safe_name(pool.name)}-{size}-{key[:24]}",
        shape=(len(pool), *row),
        dtype="uint8",
        chunk=512,
        fill=arrays.in_threads(one, row, "uint8", workers),
        label=f"decode {pool.name} at {size} px",
    )
    refuse_unreadable(pool, built)  # a training would see black squares in their place
    return built
