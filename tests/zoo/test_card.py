from __future__ import annotations

import copy
from typing import Any

import pytest

from cxrzoo import resources
from cxrzoo.errors import CardError
from cxrzoo.zoo.card import parse_card, read_card, split_front_matter
from tests.zoo.cards import copy_card, edit_card

PACKAGED = sorted(path for path in resources.MODEL_CARDS.iterdir() if path.is_dir())
CARDS = [path for path in PACKAGED if read_card(path).verified]
"""The zoo's own; those of others are in test_references.py."""
SEQUENTIAL = [path for path in CARDS if "-then-" in path.name]
FRONT: dict[str, Any] = split_front_matter(
    (resources.MODEL_CARDS / "supervised-imagenet" / "README.md").read_text()
)[0]
SHA256 = "0" * 64


def by_name(path):
    return path.name


@pytest.mark.parametrize("directory", CARDS, ids=by_name)
def test_every_packaged_card_is_valid_and_bears_its_directorys_name(directory):
    card = read_card(directory)
    _, body = split_front_matter((directory / "README.md").read_text())
    assert card.name == directory.name
    assert body.startswith(f"# {card.name}\n")
    assert card.library_name == "cxrzoo"
    assert card.license
    assert card.tier


@pytest.mark.parametrize("directory", CARDS, ids=by_name)
def test_a_card_claims_weights_only_if_its_directory_can_give_them(directory):
    weights = read_card(directory).weights
    files = {path.name for path in directory.iterdir()}
    if weights is None:
        assert files == {"README.md"}
    elif weights.file:
        assert files == {"README.md", "config.json", weights.file}
    else:
        assert files == {"README.md", "config.json"}


def test_the_zoo_has_32_encoders_of_one_input_per_tier():
    cards = [read_card(path) for path in CARDS]
    assert len(cards) == 32
    assert len({(card.tier, card.arch, card.input) for card in cards}) == 1


@pytest.mark.parametrize("directory", SEQUENTIAL, ids=by_name)
def test_the_second_stage_starts_from_the_encoder_that_its_init_names(directory):
    first, second = read_card(directory).strategy
    start = read_card(resources.MODEL_CARDS / second.init)
    assert first.init == "random"
    assert [(s.method, s.data, s.init) for s in start.strategy] == [
        (first.method, first.data, first.init)
    ]


@pytest.mark.parametrize(
    "directory", [path for path in CARDS if path not in SEQUENTIAL], ids=by_name
)
def test_every_other_strategy_is_one_stage_from_random_weights(directory):
    (stage,) = read_card(directory).strategy
    assert stage.init == "random"


def test_no_two_cards_have_the_same_strategy():
    chains = [read_card(path).chain for path in CARDS]
    assert len(set(chains)) == len(chains)


def test_a_chain_reads_from_the_first_stage_to_the_last():
    chain = read_card(resources.MODEL_CARDS / "supervised-imagenet-then-moco-cxr").chain
    assert chain.startswith("supervised on imagenet")
    assert chain.endswith(" -> moco on cxr (cxr-pool)")
    assert read_card(resources.MODEL_CARDS / "random-init").chain == "random initialisation"


# --- what a card may not say ----------------------------------------------------------------

WRONG = {
    "unknown field": ({"colour": "blue"}, "colour: unknown field"),
    "unknown input field": ({"input.colour": "blue"}, "input.colour: unknown field"),
    "unknown stage field": ({"strategy.0.epoch": 3}, "strategy.0.epoch: unknown field"),
    "unknown method": ({"strategy.0.method": "magic"}, "strategy.0.method: "),
    "endless training": ({"strategy.0.epochs": float("inf")}, "strategy.0.epochs: "),
    "no strategy": ({"strategy": []}, "strategy: "),
    "two means": ({"input.mean": [0.5, 0.5]}, "mean and std need 3 values each"),
    "one std": ({"input.std": [0.5]}, "mean and std need 3 values each"),
    "grey with three means": ({"input.channels": 1}, "mean and std need 1 values each"),
    "two channels": ({"input.channels": 2}, "input.channels: "),
    "std of zero": ({"input.std": [0.5, 0.0, 0.5]}, "std must be positive"),
    "reversed range": ({"input.range": [1.0, 0.0]}, "range increasing"),
    "unknown interpolation": ({"input.interpolation": "cubic"}, "one of nearest, bilinear, "),
    "tiny size": ({"input.size_px": 8}, "input.size_px: "),
    "a name with a space": ({"name": "my encoder"}, "name: "),
    "a name that leaves the folder": ({"name": "../x"}, "name: "),
    "bin": ({"weights": {"file": "pytorch_model.bin", "sha256": SHA256}}, "pickles run code"),
    "pth": ({"weights": {"file": "model.pth", "sha256": SHA256}}, "pickles run code"),
    "file and seed": (
        {"weights": {"file": "model.safetensors", "seed": 0, "sha256": SHA256}},
        "exactly one of file and seed",
    ),
    "neither": ({"weights": {"sha256": SHA256}}, "exactly one of file and seed"),
    "no sha256": ({"weights": {"file": "model.safetensors"}}, "sha256 may be left out only"),
    "short sha256": ({"weights.sha256": "abc"}, "weights.sha256: "),
    "branch for revision": ({"weights.revision": "main"}, "weights.revision: "),
}


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    front = copy.deepcopy(FRONT)
    for place, value in changes.items():
        *parents, last = [int(k) if k.isdigit() else k for k in place.split(".")]
        target: Any = front
        for key in parents:
            target = target[key]
        target[last] = value
    return front


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_card_is_refused_by_file_and_field(what):
    changes, message = WRONG[what]
    with pytest.raises(CardError) as caught:
        parse_card(changed(changes), "my/README.md")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"my/README.md: {next(iter(changes)).split('.')[0]}")
    assert message in line


@pytest.mark.parametrize("field", ["name", "arch", "strategy", "input", "provenance"])
def test_a_missing_field_is_named(field):
    front = {key: value for key, value in FRONT.items() if key != field}
    with pytest.raises(CardError, match=f"^a card: {field}: Field required$"):
        parse_card(front, "a card")


def test_every_problem_of_a_card_gets_its_own_line():
    with pytest.raises(CardError) as caught:
        parse_card(changed({"colour": 1, "tier": "huge"}), "a card")
    assert sorted(line.split(": ")[1] for line in str(caught.value).splitlines()) == [
        "colour",
        "tier",
    ]


def test_an_unknown_field_in_a_file_is_reported_with_the_files_path(tmp_path):
    directory = copy_card("random-init", tmp_path)
    edit_card(directory, colour="blue")
    with pytest.raises(CardError) as caught:
        read_card(directory)
    assert str(caught.value) == f"{directory / 'README.md'}: colour: unknown field"


# --- front matter ---------------------------------------------------------------------------

BROKEN = {
    "no front matter": b"# An encoder\n",
    "empty": b"",
    "never closed": b"---\nname: x\n",
    "not at the top": b"\n---\nname: x\n---\n",
    "a list": b"---\n- name\n---\n",
    "a bare word": b"---\nname\n---\n",
    "not YAML": b"---\nname: [\n---\n",
    "not UTF-8": b"---\nname: \xff\xfe\n---\n",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_card_without_proper_front_matter_is_refused_by_path(tmp_path, what):
    (tmp_path / "README.md").write_bytes(BROKEN[what])
    with pytest.raises(CardError) as caught:
        read_card(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'README.md'}: ")


def test_a_card_cannot_run_code(tmp_path):
    mark = tmp_path / "executed"
    (tmp_path / "README.md").write_text(
        f"---\nname: !!python/object/apply:os.system ['touch {mark}']\n---\n"
    )
    with pytest.raises(CardError, match="not valid YAML"):
        read_card(tmp_path)
    assert not mark.exists()


def test_a_directory_without_a_card_is_named(tmp_path):
    with pytest.raises(CardError, match=r"is not a model card directory: no README\.md"):
        read_card(tmp_path)


def test_a_file_is_not_a_card_directory(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(CardError, match="is not a model card directory"):
        read_card(file)


def test_a_card_with_windows_line_ends_is_read(tmp_path):
    directory = copy_card("random-init", tmp_path)
    expected, path = read_card(directory), directory / "README.md"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_card(directory) == expected


def test_rules_in_the_text_belong_to_the_text():
    front, body = split_front_matter("---\nname: x\n---\n\nabove\n\n---\n\nbelow\n")
    assert front == {"name": "x"}
    assert body == "above\n\n---\n\nbelow\n"
