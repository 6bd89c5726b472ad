"""Exposure: what a contamination expert would check, one pair at a time; and its laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrzoo.data.benchmark import Benchmark, find, list_benchmarks
from cxrzoo.data.overlap import load_overlap
from cxrzoo.evaluation.exposure import Exposure, exposure
from cxrzoo.zoo import registry
from cxrzoo.zoo.card import Card, PretrainingData, Stage
from tests.zoo.cards import copy_card, edit_card

RANK = {"clean": 0, "unknown": 1, "exposed": 2}
BENCHMARKS = list_benchmarks()
BASE, _ = registry.find("random-init")


def card_of(*data: PretrainingData, init: str = "random", name: str = "mine") -> Card:
    stage = Stage(method="moco", data="cxr", init=init)
    return BASE.model_copy(update={"name": name, "strategy": (stage,), "pretraining_data": data})


def seen(dataset: str, split: str | None = "all", labels: bool | None = False) -> PretrainingData:
    return PretrainingData(dataset=dataset, split=split, labels_seen=labels)


def without_data() -> Card:
    return card_of().model_copy(update={"pretraining_data": None})


def folder_benchmark() -> Benchmark:
    return find("phantom").model_copy(update={"name": "imagefolder:mine"})


# One pair at a time --------------------------------------------------------------------------

TRAIN = "official-train"


@pytest.mark.parametrize(
    ("entry", "benchmark", "state", "images", "labels"),
    [
        # self-supervised on NIH
        (seen("nih14", "all"), "nih14", "exposed", 112120, False),
        (seen("nih14", "all"), "rsna", "exposed", 26586, False),
        (seen("nih14", "all"), "nih-google", "exposed", 4376, False),
        (seen("nih14", "all"), "siim", "exposed", None, False),
        (seen("nih14", "all"), "chexpert", "clean", 0, False),
        (seen("nih14", TRAIN), "nih14", "clean", 86524, False),
        (seen("nih14", TRAIN), "rsna", "clean", 19416, False),
        (seen("nih14", TRAIN), "nih-google", "clean", 2414, False),
        (seen("nih14", TRAIN), "siim", "unknown", None, False),
        (seen("nih14", "official-test"), "rsna", "exposed", 7170, False),
        (seen("nih14", "mrm-train"), "nih14", "exposed", None, False),
        (seen("nih14", None), "nih14", "unknown", None, False),
        (seen("nih14", None), "rsna", "unknown", None, False),
        (seen("nih14", None), "vindr", "clean", 0, False),
        # supervised on NIH, as torchxrayvision's
        (seen("nih14", TRAIN, True), "nih14", "exposed", 86524, True),
        (seen("nih14", TRAIN, True), "rsna", "exposed", 19416, True),
        (seen("nih14", TRAIN, True), "nih-google", "exposed", 2414, True),
        (seen("nih14", TRAIN, True), "siim", "unknown", None, None),
        (seen("nih14", TRAIN, True), "padchest", "clean", 0, False),
        (seen("nih14", None, True), "nih14", "exposed", None, True),
        (seen("nih14", None, True), "rsna", "unknown", None, None),
        (seen("nih14", TRAIN, None), "nih14", "unknown", None, None),
        (seen("nih14", TRAIN, None), "rsna", "unknown", None, None),
        (seen("nih14", TRAIN, None), "openi", "clean", 0, False),
        # sets made from NIH
        (seen("rsna", "all"), "nih14", "exposed", 26586, False),
        (seen("rsna", TRAIN), "nih14", "clean", 19416, False),
        (seen("rsna", TRAIN, True), "nih14", "exposed", 19416, True),
        (seen("siim", "all"), "nih14", "unknown", None, False),
        (seen("siim", "all", True), "nih14", "exposed", None, True),
        (seen("siim", "all"), "rsna", "unknown", None, False),
        (seen("nih-google", TRAIN), "rsna", "clean", None, False),
        (seen("nih-google", TRAIN, True), "rsna", "unknown", None, None),
        (seen("chestmnist", "train"), "nih14", "exposed", None, False),
        (seen("chestmnist", "train", True), "rsna", "exposed", None, True),
        (seen("nih-cxr-lt", "train", True), "nih14", "exposed", None, True),
        # the pool
        (seen("cxr-pool"), "nih14", "unknown", None, False),
        (seen("cxr-pool"), "rsna", "unknown", None, False),
        (seen("cxr-pool"), "nih-google", "unknown", None, False),
        (seen("cxr-pool"), "siim", "unknown", None, False),
        (seen("cxr-pool"), "kermany", "unknown", None, False),
        (seen("cxr-pool"), "nlmtb", "clean", 0, False),
        # its hospitals are not named, so one of them may be the pool's
        (seen("cxr-pool"), "tbx11k", "unknown", None, False),
        (seen("cxr-pool"), "covid19", "clean", 0, False),
        (seen("cxr-pool"), "chexpert", "clean", 0, False),
        # other sets
        (seen("covid19-radiography", "all", True), "rsna", "exposed", 14863, True),
        (seen("covid19-radiography", "all", True), "kermany", "exposed", 2686, True),
        (seen("covid19-radiography"), "rsna", "unknown", None, False),
        (seen("covid19-radiography"), "covid19", "unknown", None, False),
        (seen("tbx11k", "all"), "nlmtb", "exposed", 800, False),
        (seen("tbx11k", TRAIN), "nlmtb", "unknown", None, False),
        (seen("shenzhen", "all", True), "nlmtb", "exposed", 662, True),
        (seen("kermany", TRAIN), "kermany", "clean", 5216, False),
        (seen("kermany", TRAIN, True), "kermany", "exposed", 5216, True),
        (seen("chexpert", "cxrzoo-v1-train"), "chexpert", "clean", None, False),
        (seen("chexpert", TRAIN, True), "mimic", "clean", 0, False),
        (seen("laion-2b", "all"), "chexpert", "unknown", None, False),
        (seen("my-hospital", "all"), "chexpert", "unknown", None, False),
        (seen("my-hospital", "all"), "phantom", "unknown", None, False),
        (seen("laion-2b", "all"), "phantom", "clean", 0, False),
        (seen("phantom", "all"), "phantom", "exposed", 4000, False),
        (seen("phantom", "cxrzoo-v1-train"), "phantom", "clean", None, False),
    ],
)
def test_one_dataset_against_one_benchmark(entry, benchmark, state, images, labels):
    found = exposure(card_of(entry), find(benchmark))
    assert (found.state, found.images, found.labels_seen) == (state, images, labels), found.reason


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_what_holds_for_every_benchmark(benchmark):
    benchmark = find(benchmark)
    photographs = seen("imagenet-1k", "train", True), seen("natural-pool")
    assert exposure(card_of(*photographs), benchmark).state == "clean"
    assert exposure(without_data(), benchmark).state == "unknown"
    assert exposure(card_of(), benchmark) == Exposure(
        "clean", "not pretrained, so it has seen no image", 0, False
    )
    assert (benchmark.dataset or benchmark.name) in load_overlap().datasets
    itself = seen(benchmark.dataset or benchmark.name, "all", True)
    assert exposure(card_of(itself), benchmark).state == "exposed"
    own_hash = benchmark.dataset and benchmark.split_id != "official"
    prefix = f"{benchmark.name}/" if own_hash else ""
    train = seen(benchmark.dataset or benchmark.name, f"{prefix}{benchmark.split_id}-train")
    found = exposure(card_of(train), benchmark)
    if benchmark.per_image:
        assert found.state == "unknown"
        assert found.reason.endswith("patients are not known, so test patients may be among them")
    else:
        assert found.state == "clean"
        assert found.reason.endswith("none in its test set")


def test_a_hub_copy_is_the_dataset_that_it_copies():
    hub = find("nih14").model_copy(update={"name": "nih14-copy", "dataset": "nih14"})
    assert exposure(card_of(seen("nih14", TRAIN, True)), hub).state == "exposed"
    unnamed = hub.model_copy(update={"dataset": None})
    assert exposure(card_of(seen("nih14", TRAIN, True)), unnamed).state == "unknown"


def test_two_benchmarks_of_a_dataset_have_two_hashed_splits():
    """Hashes are salted with the benchmark's name, so equal split ids are not equal splits."""
    copy = find("nih14").model_copy(update={"name": "nih14-copy", "dataset": "nih14"})
    original = card_of(seen("nih14", "cxrzoo-v1-train"))
    copied = card_of(seen("nih14", "nih14-copy/cxrzoo-v1-train"))
    assert exposure(original, find("nih14"), "cxrzoo-v1").state == "clean"
    assert exposure(original, copy, "cxrzoo-v1").state == "exposed"
    assert exposure(copied, copy, "cxrzoo-v1").state == "clean"
    assert exposure(copied, find("nih14"), "cxrzoo-v1").state == "exposed"


def test_a_partial_copy_has_another_split():
    card = card_of(seen("nih14", TRAIN))
    assert exposure(card, find("nih14")).state == "clean"
    assert exposure(card, find("nih14"), "cxrzoo-v1").state == "exposed"
    ours = card_of(seen("nih14", "cxrzoo-v1-train"))
    assert exposure(ours, find("nih14"), "cxrzoo-v1").state == "clean"
    assert exposure(ours, find("nih14"), "cxrzoo-v2").state == "exposed"


@pytest.mark.parametrize(
    ("data", "state"),
    [
        ((), "clean"),
        ((seen("imagenet-1k", "train", True),), "clean"),
        ((seen("phantom", "all"),), "clean"),
        ((seen("imagenet-21k", "all"),), "unknown"),
        ((seen("chexpert", "all"),), "unknown"),
        ((seen("imagenet-1k", "train"), seen("cxr-pool")), "unknown"),
    ],
)
def test_a_folder_of_ones_own_is_clean_for_photographs_only(data, state):
    assert exposure(card_of(*data), folder_benchmark()).state == state


def test_reasons_are_one_plain_sentence():
    assert exposure(card_of(seen("nih14", TRAIN)), find("rsna")).reason == (
        "pretrained on nih14 (official-train) without labels: "
        "19,416 of its images are rsna images, none in its test set"
    )
    assert exposure(card_of(seen("nih14", TRAIN)), find("nih14")).reason == (
        "pretrained on nih14 (official-train) without labels: "
        "the same dataset, 86,524 images, none in its test set"
    )
    assert exposure(card_of(seen("nih14", "all")), find("rsna")).reason == (
        "pretrained on nih14 (all) without labels: "
        "it holds 26,586 rsna images, test images included"
    )
    assert exposure(card_of(seen("imagenet-1k", "train", True)), find("rsna")).reason == (
        "pretrained on imagenet-1k (train) with labels: "
        "imagenet-1k holds photographs, no radiographs of patients"
    )
    assert exposure(card_of(seen("nih14", None, None)), find("rsna")).reason == (
        "pretrained on nih14 (split not stated), labels or not is not stated: "
        "which split is not stated"
    )
    assert exposure(without_data(), find("rsna")).reason == (
        "the card of mine does not say what it was pretrained on"
    )


# Several datasets ----------------------------------------------------------------------------


def test_the_worst_of_several_decides_and_gives_the_reason():
    card = card_of(seen("imagenet-1k", "train", True), seen("cxr-pool"), seen("nih14", "all"))
    assert exposure(card, find("nih14")).reason.startswith("pretrained on nih14 (all)")
    assert exposure(card, find("kermany")).reason.startswith("pretrained on cxr-pool (all)")
    assert exposure(card, find("chexpert")).state == "clean"


def test_a_clean_reason_names_the_training_images():
    card = card_of(seen("imagenet-1k", "train", True), seen("nih14", TRAIN))
    found = exposure(card, find("nih14"))
    assert (found.state, found.images) == ("clean", 86524)
    assert found.reason.startswith("pretrained on nih14 (official-train) without labels")


def test_counts_of_different_data_do_not_add_up():
    card = card_of(seen("nih14", TRAIN), seen("nih-google", TRAIN))
    assert exposure(card, find("nih14")).images is None
    twice = card_of(seen("nih14", TRAIN), seen("nih14", TRAIN, True))
    found = exposure(twice, find("rsna"))
    assert (found.state, found.images, found.labels_seen) == ("exposed", 19416, True)


_OVERLAP = load_overlap()
ENTRIES = st.builds(
    seen,
    st.sampled_from([*_OVERLAP.datasets, "my-hospital"]),
    st.sampled_from(
        [
            None,
            "all",
            "train",
            TRAIN,
            "official-test",
            "cxrzoo-v1-train",
            "cxrzoo-v1-test",
            "mrm-train",
            "nonsense",
        ]
    ),
    st.sampled_from([None, False, True]),
)
FOUND = [*(find(name) for name in BENCHMARKS), folder_benchmark()]


@given(st.lists(ENTRIES, max_size=4), ENTRIES, st.sampled_from(FOUND))
def test_adding_a_dataset_never_makes_an_encoder_cleaner(entries, more, benchmark):
    before = exposure(card_of(*entries), benchmark)
    after = exposure(card_of(*entries, more), benchmark)
    assert RANK[after.state] >= RANK[before.state]


@given(st.lists(ENTRIES, max_size=4), st.sampled_from(FOUND))
def test_the_order_of_datasets_does_not_matter(entries, benchmark):
    one, other = (exposure(card_of(*e), benchmark) for e in (entries, entries[::-1]))
    assert (one.state, one.images, one.labels_seen) == (
        other.state,
        other.images,
        other.labels_seen,
    )


@given(ENTRIES, st.sampled_from(FOUND))
def test_knowing_less_of_an_entry_never_makes_it_clean(entry, benchmark):
    full = exposure(card_of(entry), benchmark)
    for field in ("split", "labels_seen"):
        less = exposure(card_of(entry.model_copy(update={field: None})), benchmark)
        if less.state == "clean":
            assert full.state == "clean", "clean without the fact, so clean with it"


@given(st.lists(ENTRIES, max_size=3), st.sampled_from(FOUND))
def test_unlisted_data_is_never_clean(entries, benchmark):
    card = card_of(*entries, seen("my-hospital", "all"))
    assert exposure(card, benchmark).state != "clean"


@given(ENTRIES, st.sampled_from(FOUND))
def test_a_result_is_consistent(entry, benchmark):
    found = exposure(card_of(entry), benchmark)
    if found.state == "clean":
        assert found.labels_seen is False
    if found.state == "unknown":
        assert found.images is None
    if found.images == 0:
        assert found.state == "clean"
    assert "\n" not in found.reason


# Lineage -------------------------------------------------------------------------------------


def zoo(monkeypatch: pytest.MonkeyPatch, *cards: Card) -> None:
    known = {card.name: card for card in cards}

    def look_up(name):
        if name not in known:
            raise registry.UnknownNameError("encoder", name, known)
        return known[name], None

    monkeypatch.setattr(registry, "find", look_up)


def test_what_the_starting_encoder_has_seen_counts(monkeypatch):
    rsna = find("rsna")
    parent = card_of(seen("nih14", TRAIN, True), name="parent")
    child = card_of(seen("cxr-pool"), init="parent", name="child")
    grandchild = card_of(seen("imagenet-1k"), init="child", name="grandchild")
    zoo(monkeypatch, parent, child, grandchild)
    for card in (child, grandchild):
        found = exposure(card, rsna)
        assert (found.state, found.labels_seen) == ("exposed", True)
        assert found.reason == (
            "starts from parent, which is pretrained on nih14 (official-train) with labels: "
            "19,416 of its images are rsna images, none in its test set"
        )


def test_a_start_without_data_or_outside_the_zoo_is_unknown(monkeypatch):
    zoo(monkeypatch, without_data())
    found = exposure(card_of(init="mine", name="child"), find("nlmtb"))
    assert (found.state, found.reason) == (
        "unknown",
        "the card of mine does not say what it was pretrained on",
    )
    found = exposure(card_of(init="elsewhere", name="child"), find("nlmtb"))
    assert (found.state, found.reason) == (
        "unknown",
        "starts from 'elsewhere', which is not in the zoo, so its data is not known",
    )


def test_a_cycle_ends(monkeypatch):
    one = card_of(seen("imagenet-1k"), init="two", name="one")
    two = card_of(seen("nih14", "all"), init="one", name="two")
    zoo(monkeypatch, one, two)
    assert exposure(one, find("nih14")).state == "exposed"
    assert exposure(two, find("nih14")).state == "exposed"
    assert exposure(one, find("nlmtb")).state == "clean"
    alone = card_of(seen("imagenet-1k"), init="mine")
    zoo(monkeypatch, alone)
    assert exposure(alone, find("nih14")).state == "clean"


def test_the_lineage_of_a_packaged_card(tmp_path):
    folder = copy_card("random-init", tmp_path)
    start = {"method": "moco", "data": "cxr-pool", "init": "supervised-imagenet"}
    data = [{"dataset": "cxr-pool", "split": "all", "labels_seen": False}]
    edit_card(folder, name="child", strategy=[start], pretraining_data=data)
    card, _ = registry.locate(str(folder))
    assert exposure(card, find("nlmtb")).state == "clean"
    assert exposure(card, find("nih14")).state == "unknown"


@pytest.mark.parametrize("name", registry.list_encoders())
def test_every_encoder_of_the_zoo_is_judged(name):
    card, _ = registry.find(name)
    for benchmark in FOUND:
        found = exposure(card, benchmark)
        if card.pretraining_data is None:
            assert found.state == "unknown"


def test_a_card_that_names_the_data_of_all_stages_need_not_ask_those_it_starts_from():
    fields = {
        "strategy": [{"method": "moco", "data": "cxr", "init": "swav-imagenet"}],
        "pretraining_data": [{"dataset": "imagenet-1k", "split": "train", "labels_seen": False}],
    }
    card, _ = registry.find("random-init")
    asked = card.model_validate({**card.model_dump(), **fields})
    said = card.model_validate({**asked.model_dump(), "data_of_all_stages": True})
    assert exposure(asked, find("rsna")).state == "unknown"
    assert exposure(said, find("rsna")).state == "clean"
    silent = said.model_validate({**said.model_dump(), "pretraining_data": None})
    assert exposure(silent, find("rsna")).state == "unknown"
