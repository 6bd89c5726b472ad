"""Recipes as they are packaged, and what is refused of others."""

from __future__ import annotations

import functools
import itertools
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cxrzoo import resources
from cxrzoo.errors import RecipeError, UnknownNameError
from cxrzoo.pretrain.methods import find_method
from cxrzoo.pretrain.recipe import (
    SECTIONS,
    LocalViews,
    Views,
    find_recipe,
    list_recipes,
    read_recipe,
    with_changes,
)
from cxrzoo.schema import parse_yaml

NAMES = list_recipes()
CASES = [("imagenet", "scratch"), ("cxr-pool", "scratch"), ("cxr-pool", "continued")]
IMAGENET = 1_281_167


@functools.cache
def recipe_of(name: str):
    return find_recipe(*name.rsplit("-", 1))


def flat(node: Any, path: str = "") -> dict[str, Any]:
    """Values by their dotted path."""
    if not isinstance(node, dict):
        return {path[1:]: node}
    return {k: v for key, inner in node.items() for k, v in flat(inner, f"{path}.{key}").items()}


def test_every_method_has_a_recipe_at_both_tiers():
    methods = ["barlow", "byol", "dino", "moco", "simclr", "supervised", "swav", "vicreg"]
    assert [f"{method}-{tier}" for method in methods for tier in ("lite", "resnet50")] == NAMES
    with pytest.raises(UnknownNameError, match="did you mean"):
        find_recipe("moco", "light")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("data", "start"), CASES)
def test_a_section_fits_its_method_and_has_a_source_for_every_value(name, data, start):
    recipe, method = recipe_of(name), find_method(name.rsplit("-", 1)[0])
    settings, sources = recipe.settings(data, start), recipe.sources_of(data, start)
    method.Settings(**settings.method)
    assert all(sources.values())
    assert set(flat(settings.model_dump(exclude_unset=True))) == set(sources)
    views = settings.views
    assert (views.local is not None) == method.multi_crop
    assert views.size_px <= settings.store_px
    assert settings.optimiser.warmup_steps <= settings.steps / 5
    assert settings.method.get("frozen_steps", 0) <= settings.steps / 5
    if views.local:
        assert views.local.size_px < views.size_px
        assert views.local.crop_scale[1] <= max(0.3, views.crop_scale[0])
    if data != "imagenet":
        assert (views.hue, views.saturation, views.grey_probability) == (0, 0, 0)
        assert (views.flip_probability, views.rotation_deg) == (0, 10)
        assert views.crop_scale[0] == 0.3
        assert views.brightness > 0 < views.contrast


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("resnet50")])
def test_published_lengths_are_whole_epochs(name):
    settings, sources = recipe_of(name).imagenet, recipe_of(name).sources_of("imagenet", "scratch")
    epochs = settings.images_seen // IMAGENET
    assert settings.images_seen == epochs * IMAGENET
    assert f"{epochs} epochs of 1,281,167 images" in sources["images_seen"]
    assert settings.steps == round(epochs * IMAGENET / settings.batch_size)
    assert settings.optimiser.warmup_steps in (0, round(10 * IMAGENET / settings.batch_size))


def test_a_section_states_only_what_differs_from_the_one_before():
    recipe = recipe_of("moco-lite")
    assert recipe.settings("imagenet-1k", "scratch") == recipe.imagenet
    assert recipe.settings("nih14", "scratch") == recipe.cxr
    assert recipe.continued.batch_size == recipe.cxr.batch_size == recipe.imagenet.batch_size
    assert "continued.views.rotation_deg" not in recipe.sources
    sources = recipe.sources_of("cxr-pool", "continued")
    assert sources["views.rotation_deg"] == recipe.sources["cxr.views.rotation_deg"]
    assert sources["views.size_px"] == recipe.sources["continued.views.size_px"]
    with pytest.raises(RecipeError, match=r"^no recipe trains trained weights further on photo"):
        recipe.settings("imagenet", "continued")


def test_a_value_replaces_what_an_earlier_section_has_below_it(tmp_path):
    text = (resources.RECIPES / "swav-lite.yaml").read_text()
    before, name, after = text.partition("\ncxr:\n")
    after = re.sub(r"local:\n +size_px: .*", "local: {value: null, source: none}", after, count=1)
    path = tmp_path / "swav-lite.yaml"
    path.write_text(before + name + re.sub(r" +local:\n +size_px: .*\n", "", after))
    recipe = read_recipe(path)
    assert recipe.imagenet.views.local is not None
    assert recipe.cxr.views.local is recipe.continued.views.local is None
    sources = recipe.sources_of("cxr-pool", "continued")
    assert {k: v for k, v in sources.items() if "local" in k} == {"views.local": "none"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{value: 64, source: ours}", "64", "imagenet.batch_size: a value needs its source"),
        ("64, source: ours}", "64, source: }", "imagenet.batch_size.* needs its source"),
        ("value: 64,", "value: x,", "imagenet.batch_size"),
        ("batch_size", "bach_size", "imagenet.bach_size: unknown field"),
        ("tier: lite", "tier: huge", "it is about moco at tier huge"),
        ("\ncxr:", "\nchest:", "section 'cxr' is missing"),
        ("method: moco", "[", "not valid YAML"),
        ("[0.3, 1.0]", "[1.0, 0.3]", "cxr.views.crop_scale: .*two shares of the area"),
    ],
)
def test_recipes_are_refused_by_file_and_field(tmp_path, old, new, message):
    text, path = (resources.RECIPES / "moco-lite.yaml").read_text(), tmp_path / "moco-lite.yaml"
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(RecipeError, match=message) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value)


def test_changes_reach_nested_absent_and_method_settings():
    settings = with_changes(
        recipe_of("moco-lite").cxr,
        ["optimiser.learning_rate=1e-4", "views.crop_scale=[0.5, 1]", "method.anything=2e-1",
         "views.local.count=3", "views.local.size_px=32", "views.local.crop_scale=[0.1, 0.3]",
         "batchnorm=frozen"],
    )  # fmt: skip
    assert settings.optimiser.learning_rate == 1e-4
    assert settings.views.crop_scale == (0.5, 1.0)
    assert settings.views.local == LocalViews(count=3, size_px=32, crop_scale=(0.1, 0.3))
    assert (settings.method["anything"], settings.batchnorm) == (0.2, "frozen")
    assert with_changes(settings, ["views.local=null"]).views.local is None
    assert with_changes(settings, []) == settings
    assert with_changes(settings, ["images_seen=1", "optimiser.warmup_steps=0"]).steps == 1


def test_a_training_that_is_all_warm_up_and_lars_without_decay_are_refused():
    settings = recipe_of("moco-lite").cxr
    with pytest.raises(RecipeError, match="warmup_steps: 200 leave nothing of a training of 2 st"):
        with_changes(settings, ["images_seen=128"])
    with pytest.raises(RecipeError, match="weight_decay: lars needs some"):
        with_changes(settings, ["optimiser.name=lars", "optimiser.weight_decay=0"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("batch_size", "'batch_size' changes no setting: expected name=value"),
        ("optimiser.learning=1", "unknown setting 'optimiser.learning'.* optimiser.learning_rate"),
        ("optimiser=sgd", "unknown setting 'optimiser'"),
        ("method.=1", "unknown setting"),
        ("batch_size=many", "batch_size: .*valid integer"),
        ("batch_size=[", "batch_size: not valid YAML"),
        ("optimiser.learning_rate=.inf", "optimiser.learning_rate: .*finite"),
        ("optimiser.layer_decay=0", "optimiser.layer_decay: .*greater than 0"),
        ("views.local.count=2", "views.local.size_px: Field required"),
    ],
)
def test_changes_are_refused_by_name(change, message):
    with pytest.raises(RecipeError, match=message):
        with_changes(recipe_of("moco-lite").cxr, [change])


@pytest.mark.parametrize(
    ("names", "values"),
    [
        ("crop_ratio blur_sigma crop_scale", [(0, 1), (2, 1), (math.nan, 1), (1, math.inf)]),
        ("rotation_deg brightness contrast saturation noise_std", [-0.1, math.nan, math.inf]),
    ],
)
def test_views_without_a_meaning_are_refused(names, values):
    for name, value in itertools.product(names.split(), values):
        with pytest.raises(ValidationError, match=name):
            Views.model_validate({"size_px": 64, "crop_scale": (0.2, 1.0), name: value})


LONG = ("images_seen=1000000000", "optimiser.warmup_steps=0")  # so that no number is too large
SWAV = with_changes(recipe_of("swav-lite").continued, LONG)
NUMBERS = {
    key: value
    for key, value in flat(SWAV.model_dump()).items()
    if isinstance(value, int | float) and not isinstance(value, bool) and key != "images_seen"
}


@given(st.sampled_from(sorted(NUMBERS)), st.floats(0.05, 0.45), st.integers(32, 10_000))
def test_a_change_of_one_number_changes_that_number_only(name, share, count):
    value = count if isinstance(NUMBERS[name], int) else share
    changed = with_changes(SWAV, [f"{name}={value}"])
    assert flat(changed.model_dump()) == {**flat(SWAV.model_dump()), name: value}


def test_files_say_nothing_twice():
    """YAML keeps the last of two equal keys without a word."""
    for name in NAMES:
        content = parse_yaml(text := (resources.RECIPES / f"{name}.yaml").read_text())
        leaves = [key for section in SECTIONS for key in flat(content[section]) if "." in key]
        assert len(leaves) == 2 * text.count("{value: ")
