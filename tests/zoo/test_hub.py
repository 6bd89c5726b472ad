"""Encoders from the Hub: the real client against a local hub, well-behaved or not."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants

import cxrzoo
from cxrzoo import resources
from cxrzoo.errors import CardError, CxrzooError, HubError, StorageError, WeightsError
from cxrzoo.zoo import hub as zoo_hub
from cxrzoo.zoo.card import CARD_FILE
from cxrzoo.zoo.encoder import golden_input
from cxrzoo.zoo.publish import prepare, publish
from cxrzoo.zoo.results import Score
from tests.hub.server import Fault, Hub, running_hub
from tests.zoo.cards import copy_card, edit_card

REPO = "cxrzoo/supervised-imagenet"
NAME = f"hf:{REPO}"
WEIGHTS = "model.safetensors"
FILES = {
    path.name: path.read_bytes()
    for path in (resources.MODEL_CARDS / "supervised-imagenet").iterdir()
}
SHA256 = hashlib.sha256(FILES[WEIGHTS]).hexdigest()


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    """A hub that the client of this process speaks to, with an empty cache and no token."""
    with running_hub() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
        template = running.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        # waiting between attempts proves nothing
        monkeypatch.setattr(time, "sleep", lambda _: None)
        yield running


@pytest.fixture
def token(hub, monkeypatch) -> str:
    made = hub.user("cxrzoo")
    monkeypatch.setenv("HF_TOKEN", made)
    return made


@pytest.fixture
def published(hub) -> str:
    """The commit at which the hub has the packaged supervised-imagenet."""
    return hub.repo(f"models/{REPO}").commit(FILES)


def features(encoder: cxrzoo.Encoder) -> np.ndarray:
    with torch.inference_mode():
        return encoder(encoder.preprocess(golden_input())).numpy()


EXPECTED = features(cxrzoo.load("supervised-imagenet"))


def blob(tmp_path: Path, name: str) -> Path:
    """Where the client's cache keeps the content of a file."""
    (found,) = tmp_path.glob(f"hf/*/snapshots/*/{name}")
    return found.resolve()


# References ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "parsed"),
    [
        ("hf:a/b", ("a/b", None)),
        ("a/b", ("a/b", None)),
        ("hf:a-1/b.c_d@v1", ("a-1/b.c_d", "v1")),
        ("hf:a/b@refs/pr/2", ("a/b", "refs/pr/2")),
    ],
)
def test_a_reference_is_repository_and_revision(reference, parsed):
    assert zoo_hub.parse(reference) == parsed


@pytest.mark.parametrize(
    "text", ["hf:", "hf:a", "hf:a/b/c", "hf:../b", "hf:a/b@", "hf:a b/c", "a/.."]
)
def test_what_is_no_reference_is_refused_before_anything_is_asked(hub, text):
    with pytest.raises(HubError, match="is no encoder on the Hub; write hf:org/repo"):
        zoo_hub.fetch(text)
    assert not hub.requests


# Fetching ------------------------------------------------------------------------------------


def test_an_encoder_is_loaded_at_one_commit_with_the_features_it_was_published_with(hub, published):
    encoder = cxrzoo.load(NAME)
    assert str(encoder.pin) == f"hf:{REPO}@{published}"
    assert encoder.weights_sha256 == SHA256
    assert np.array_equal(features(encoder), EXPECTED)
    resolved = [r for r in hub.requests if "/resolve/" in r]
    assert all(f"/resolve/{published}/" in r for r in resolved), "never a branch that may move"
    assert sum("config.json" in r and r.startswith("GET") for r in resolved) == 1


def test_what_is_pinned_and_cached_makes_no_request(hub, published):
    cxrzoo.load(f"{NAME}@{published}")
    hub.requests.clear()
    encoder = cxrzoo.load(f"{NAME}@{published}")
    assert hub.requests == []
    assert np.array_equal(features(encoder), EXPECTED)


def test_a_tag_and_a_branch_are_asked_for_and_then_cached(hub, published):
    hub.repo(f"models/{REPO}").refs["refs/tags/v1"] = published
    cxrzoo.load(f"{NAME}@{published}")
    hub.requests.clear()
    assert zoo_hub.fetch(f"{NAME}@v1").pin.revision == published
    assert [r for r in hub.requests if "/resolve/" in r] == []


def test_a_moved_branch_gives_the_new_commit_and_a_pin_the_old_one(hub, published):
    assert zoo_hub.fetch(NAME).pin.revision == published
    text = FILES[CARD_FILE].decode().replace("# supervised-imagenet", "# Newer")
    newer = hub.repo(f"models/{REPO}").commit({**FILES, CARD_FILE: text.encode()})
    assert zoo_hub.fetch(NAME).pin.revision == newer != published
    assert zoo_hub.fetch(f"{NAME}@{published}").pin.revision == published


def test_offline_a_cached_encoder_loads_by_pin_and_by_the_branch_of_the_last_time(
    hub, published, monkeypatch
):
    cxrzoo.load(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    for name in (NAME, f"{NAME}@{published}"):
        assert str(cxrzoo.load(name).pin) == f"hf:{REPO}@{published}"
    assert hub.requests == []


def test_with_the_hub_down_what_is_cached_still_loads(hub, published):
    cxrzoo.load(NAME)
    hub.faults.append(Fault("...", "status", times=None, status=503))
    assert str(cxrzoo.load(NAME).pin) == f"hf:{REPO}@{published}"


def test_a_zoo_card_may_name_a_repository_instead_of_carrying_weights(
    hub, published, tmp_path, monkeypatch
):
    cards = tmp_path / "cards"
    mine = copy_card("supervised-imagenet", cards)
    (mine / WEIGHTS).unlink()
    weights = {"file": WEIGHTS, "sha256": SHA256, "repo_id": REPO, "revision": published}
    edit_card(mine, weights=weights)
    monkeypatch.setattr(resources, "MODEL_CARDS", cards)
    encoder = cxrzoo.load("supervised-imagenet")
    assert str(encoder.pin) == f"hf:{REPO}@{published}"
    assert np.array_equal(features(encoder), EXPECTED)
    asked = [r for r in hub.requests if "/resolve/" in r]
    assert all(WEIGHTS in r for r in asked), "card and config are at hand"


def test_a_record_says_at_which_commit_its_encoder_was(hub, published, tmp_path):
    (made,) = cxrzoo.evaluate(
        [NAME], ["phantom"], limit=60, seeds=1, budgets=[20], output=tmp_path / "runs"
    )
    assert made.declared["pin"] == f"hf:{REPO}@{published}"
    assert made.spec.encoder.weights_sha256 == SHA256


# What can go wrong ---------------------------------------------------------------------------

FAULTS = {
    "gated": "is gated: ask for access on .*, then `hf auth login`",
    "private": "does not exist on .*, or is private and your token may not see it",
    "missing repository": "does not exist on .*, or is private and your token may not see it",
    "missing file": "has no file config.json; it is not an encoder in the card shape",
    "missing revision": "has no revision 'v9'; see its tags and commits",
    "401": "refuses .* with 401: your token is not good for it|does not exist on .*, or is private",
    "403": "refuses .* with 403: your token is not good for it",
    "429": "answers 429, too many requests: wait a few minutes",
    "500": "answers 500 for .*: its fault, not yours; try again later",
    "503": "answers 503 for .*: its fault, not yours; try again later",
    "dropped": r"could not be reached for .* \(\w+\): see whether you are online",
    "no network": r"could not be reached for .* \(\w+\): see whether you are online",
    "offline": "is not in the cache, or damaged there, and the Hub may not be asked .offline.: run",
}


def spoil(kind: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make the hub misbehave; returns what to ask for."""
    repo = hub.repo(f"models/{REPO}")
    match kind:
        case "gated":
            repo.gated = True
        case "private":
            repo.private = True
        case "missing repository":
            return "hf:cxrzoo/nobody-has-this"
        case "missing file":
            repo.commit({k: v for k, v in FILES.items() if k != "config.json"})
        case "missing revision":
            return f"{NAME}@v9"
        case "dropped":
            hub.faults.append(Fault("...", "drop", times=None))
        case "no network":
            monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        case "offline":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        case status:
            hub.faults.append(Fault("...", "status", times=None, status=int(status)))
    return NAME


@pytest.mark.parametrize("kind", FAULTS)
def test_every_refusal_of_the_hub_is_one_line_with_what_to_do(
    hub, published, token, monkeypatch, kind
):
    if kind in ("gated", "private"):  # to all but its owner
        monkeypatch.setenv("HF_TOKEN", token := hub.user("somebody"))
    name = spoil(kind, hub, monkeypatch)
    with pytest.raises(HubError, match=FAULTS[kind]) as caught:
        cxrzoo.load(name)
    message = str(caught.value)
    assert "\n" not in message
    assert token not in message


def test_a_token_opens_what_is_private_and_goes_nowhere_else(hub, published, token, tmp_path):
    hub.repo(f"models/{REPO}").private = True
    hub.repo(f"models/{REPO}").owner = "cxrzoo"
    encoder = cxrzoo.load(NAME)
    assert np.array_equal(features(encoder), EXPECTED)
    assert hub.leaked == []
    kept = [p for p in tmp_path.rglob("*") if p.is_file() and token.encode() in p.read_bytes()]
    assert kept == []


@pytest.mark.parametrize("kind", ["cut", "alter", "wrong_length"])
@pytest.mark.parametrize("times", [1, None])
def test_a_body_that_arrives_damaged_is_fetched_again_and_then_reported(
    hub, published, tmp_path, kind, times
):
    hub.faults.append(Fault("GET /lfs/", kind, times=times, after=1000))
    if times == 1:
        assert np.array_equal(features(cxrzoo.load(NAME)), EXPECTED)
    else:
        with pytest.raises(HubError, match=f"{WEIGHTS} of hf:{REPO}@|could not be reached"):
            cxrzoo.load(NAME)
        left = [p for p in tmp_path.glob("hf/*/blobs/*") if p.stat().st_size > 100_000]
        assert [p for p in left if p.name == SHA256] == [], "nothing damaged stays in the cache"
    assert hub.faulted
    hub.faults.clear()
    assert np.array_equal(features(cxrzoo.load(NAME)), EXPECTED)


@pytest.mark.parametrize("damage", ["altered", "truncated", "emptied"])
@pytest.mark.parametrize("name", [WEIGHTS, CARD_FILE, "config.json"])
def test_a_cached_file_that_was_changed_is_thrown_away_and_fetched_again(
    hub, published, tmp_path, damage, name
):
    cxrzoo.load(f"{NAME}@{published}")
    path = blob(tmp_path, name)
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "altered": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "truncated": content[:middle],
            "emptied": b"",
        }[damage]
    )
    encoder = cxrzoo.load(f"{NAME}@{published}")
    assert np.array_equal(features(encoder), EXPECTED)
    assert blob(tmp_path, name).read_bytes() == content


def test_a_wrong_etag_is_no_matter_where_the_content_is_right(hub, published):
    hub.faults.append(Fault("HEAD ...resolve/.../config.json", "etag", times=None))
    hub.faults.append(Fault("GET ...resolve/.../config.json", "etag", times=None))
    # the Hub's list of files says what the content must be, and it is that
    assert np.array_equal(features(cxrzoo.load(NAME)), EXPECTED)


def test_a_slow_hub_is_waited_for(hub, published):
    hub.faults.append(Fault("GET /lfs/", "slow", seconds=0.01))
    assert np.array_equal(features(cxrzoo.load(NAME)), EXPECTED)


# What must be refused ------------------------------------------------------------------------


class Evil:
    """A pickle that would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "ran"))


def header(entries: dict, size: int = 0) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * size


def tensor(start: int, stop: int, dtype: str = "F32", shape: list | None = None) -> dict:
    shape = [(stop - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


MALICIOUS = {
    "pickle": (None, "is a pickle, not a safetensors file, and is not opened"),
    "long header": (
        struct.pack("<Q", 100_000_000) + b"{}",
        "announces a header of 100,000,000 bytes",
    ),
    "huge header": (
        struct.pack("<Q", 11_000_000) + b" " * 11_000_000,
        "announces a header of 11,000,000 bytes",
    ),
    "overlap": (header({"a": tensor(0, 8), "b": tensor(4, 12)}, 12), "'b' begins at byte 4, not 8"),
    "gap": (header({"a": tensor(0, 4), "b": tensor(8, 12)}, 12), "'b' begins at byte 8, not 4"),
    "beyond the end": (header({"a": tensor(0, 400)}, 4), "holds 4 bytes of tensors, not 400"),
    "negative": (header({"a": tensor(-4, 0)}, 0), "'a' has dtype 'F32'"),
    "wrong size": (header({"a": tensor(0, 8, shape=[3])}, 8), "does not fill bytes 0:8"),
    "huge shape": (header({"a": tensor(0, 8, shape=[2**62, 4])}, 8), "does not fill bytes"),
    "twice": (
        struct.pack("<Q", 2 + 2 * 52) + b"{" + b",".join([b'"a":' + b" " * 47] * 2) + b"}",
        "not a safetensors file",
    ),
    "unknown dtype": (header({"a": tensor(0, 4, dtype="X")}, 4), "'a' has dtype 'X'"),
    "text": (b"hello, this is no model", "announces a header of"),
    "empty": (b"", "announces a header of 0 bytes in 0"),
    "no bytes": (header({}), "missing"),
}


@pytest.mark.parametrize("kind", MALICIOUS)
def test_a_malicious_weights_file_is_refused_unopened(hub, tmp_path, kind):
    content, message = MALICIOUS[kind]
    if content is None:
        content = pickle.dumps(Evil(tmp_path / "ran"))
    sha256 = hashlib.sha256(content).hexdigest()
    text = FILES[CARD_FILE].decode().replace(SHA256, sha256)
    hub.repo(f"models/{REPO}").commit({**FILES, CARD_FILE: text.encode(), WEIGHTS: content})
    with pytest.raises(WeightsError, match=message):
        cxrzoo.load(NAME)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("change", ["wrong shape", "missing buffer", "extra tensor"])
def test_weights_of_another_network_are_refused_with_the_tensors_named(hub, change):
    from safetensors.torch import load, save

    state = load(FILES[WEIGHTS])
    match change:
        case "wrong shape":
            state["conv_stem.weight"] = state["conv_stem.weight"][:, :1].contiguous()
            message = r"conv_stem.weight has shape \(32, 1, 3, 3\), not \(32, 3, 3, 3\)"
        case "missing buffer":
            del state["bn1.running_mean"]
            message = "missing bn1.running_mean"
        case _:
            state["backdoor"] = torch.zeros(3)
            message = "unexpected backdoor"
    content = save(state)
    text = FILES[CARD_FILE].decode().replace(SHA256, hashlib.sha256(content).hexdigest())
    hub.repo(f"models/{REPO}").commit({**FILES, CARD_FILE: text.encode(), WEIGHTS: content})
    with pytest.raises(WeightsError, match=message):
        cxrzoo.load(NAME)


@pytest.mark.parametrize(
    "name", ["../../evil", "/etc/evil", "a/../../evil", "..\\evil", "C:\\evil"]
)
def test_a_file_list_that_leads_out_of_the_repository_is_refused(hub, tmp_path, name):
    hub.repo(f"models/{REPO}").commit({**FILES, name: b"evil"})
    with pytest.raises(HubError, match="that leads out of its folder: refused"):
        cxrzoo.load(NAME)
    assert not list(tmp_path.rglob("*evil*"))


def test_a_repository_without_safetensors_is_refused_and_its_pickle_not_fetched(hub):
    files = {CARD_FILE: FILES[CARD_FILE], "pytorch_model.bin": b"\x80\x02evil"}
    hub.repo(f"models/{REPO}").commit(files)
    with pytest.raises(HubError, match=r"has no safetensors file: it holds 'pytorch_model.bin'"):
        cxrzoo.load(NAME)
    assert not [r for r in hub.requests if "pytorch_model" in r]


BOMB = "\n".join(["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]"
                                    for n in range(1, 12)])  # fmt: skip


@pytest.mark.parametrize(
    ("front", "message"),
    [
        ("x: !!python/object/apply:os.system ['touch ran']", "not valid YAML"),
        (BOMB, "anchors and aliases are not allowed"),
        ("name: " + "x" * 3_000_000, "larger than 2,000,000 bytes"),
        ("weights: {file: ../../evil.safetensors, sha256: " + "0" * 64 + "}", "weights.file"),
        (
            FILES[CARD_FILE].decode().split("---\n")[1].replace("model.safetensors", "model.bin"),
            "pickles run code",
        ),
        ("- a list", "front matter must be a mapping"),
        ('name: "\\e[2J\\e[31mgone"', "holds control characters, which a terminal obeys"),
    ],
    ids=[
        "python object",
        "billion laughs",
        "too large",
        "escaping",
        "a pickle",
        "no mapping",
        "escapes",
    ],
)
def test_a_malicious_card_is_refused(hub, tmp_path, monkeypatch, front, message):
    monkeypatch.chdir(tmp_path)
    hub.repo(f"models/{REPO}").commit({**FILES, CARD_FILE: f"---\n{front}\n---\nx".encode()})
    with pytest.raises(CardError, match=message):
        cxrzoo.load(NAME)
    assert not (tmp_path / "ran").exists()


def test_code_in_a_repository_is_never_fetched(hub, published):
    evil = b"raise SystemExit('ran')"
    hub.repo(f"models/{REPO}").commit({**FILES, "modeling.py": evil, "cxrzoo.py": evil})
    cxrzoo.load(NAME)
    assert not [r for r in hub.requests if r.endswith(".py")]


# Publishing ----------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path) -> Path:
    return copy_card("supervised-imagenet", tmp_path)


def test_publishing_is_one_commit_a_tag_and_a_pin_that_loads(hub, token, directory):
    done = publish(directory, REPO)
    assert done.pin is not None
    assert done.tag == "v1"
    assert done.files[WEIGHTS] == (len(FILES[WEIGHTS]), SHA256)
    commits = [r for r in hub.requests if r.startswith("POST") and "/commit/" in r]
    assert len(commits) == 1
    encoder = cxrzoo.load(f"hf:{REPO}@v1")
    assert encoder.pin == done.pin
    assert np.array_equal(features(encoder), EXPECTED)
    assert hub.leaked == []


def test_publishing_the_same_again_changes_nothing_and_another_content_needs_a_version(
    hub, token, directory
):
    first = publish(directory, REPO)
    hub.requests.clear()
    assert publish(directory, REPO).pin == first.pin
    assert not [r for r in hub.requests if "/commit/" in r and r.startswith("POST")]
    (directory / CARD_FILE).write_text((directory / CARD_FILE).read_text() + "\nMore.\n")
    with pytest.raises(HubError, match="has v1 already, with other content; raise `version`"):
        publish(directory, REPO)
    edit_card(directory, version=2)
    second = publish(directory, REPO)
    assert (second.tag, second.pin != first.pin) == ("v2", True)


def test_a_private_repository_is_made_private(hub, token, directory):
    publish(directory, REPO, private=True)
    assert hub.repo(f"models/{REPO}").private


def test_results_are_written_for_the_hubs_page_each_budget_by_itself(hub, token, directory):
    from huggingface_hub import ModelCard

    scores = [
        Score("nih14", "NIH ChestX-ray14", "test", budget, "linear-v1", value, 5)
        for budget, value in ((100, 0.602), (1000, 0.692))
    ]
    publish(directory, REPO, scores=scores)
    card = ModelCard.load(directory / CARD_FILE)
    found = {r.dataset_config: r.metric_value for r in card.data.eval_results}
    assert found == {"linear-v1, budget 100": 0.602, "linear-v1, budget 1000": 0.692}
    assert (card.data.library_name, card.data.pipeline_tag) == (
        "cxrzoo",
        "image-feature-extraction",
    )
    assert np.array_equal(features(cxrzoo.load(NAME)), EXPECTED)


def test_a_commit_by_somebody_else_in_the_meantime_is_noticed(hub, token, directory):
    hub.repo(f"models/{REPO}").commit({"README.md": b"theirs"})
    hub.faults.append(Fault("POST ...commit/", "status", status=412))
    with pytest.raises(HubError, match="was changed by somebody else in the meantime"):
        publish(directory, REPO)
    assert "v1" not in str(hub.repo(f"models/{REPO}").refs)


def test_without_a_right_to_write_nothing_is_written(hub, directory, monkeypatch):
    hub.user("cxrzoo")
    monkeypatch.setenv("HF_TOKEN", hub.user("somebody"))
    with pytest.raises(HubError, match=r"refuses|may not see"):
        publish(directory, REPO)
    assert hub.uploads == []


def test_what_comes_back_other_than_sent_is_not_tagged(hub, token, directory):
    hub.faults.append(Fault("GET /lfs/", "alter", times=None, after=1000))
    with pytest.raises(HubError, match="comes back with sha256"):
        publish(directory, REPO)
    assert "v1" not in str(hub.repo(f"models/{REPO}").refs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: edit_card(d, license=None), "the Hub's page needs license"),
        (lambda d: edit_card(d, library_name=None, tags=None), "needs library_name, tags"),
        (lambda d: edit_card(d, weights=None), "has no weights file"),
        (lambda d: (d / "notes.txt").write_text("x"), "holds notes.txt besides README.md"),
        (lambda d: (d / WEIGHTS).write_bytes(FILES[WEIGHTS][:-8]), "has sha256"),
        (lambda d: (d / "config.json").unlink(), "golden output is missing"),
        (lambda d: (d / "config.json").write_text(
            FILES["config.json"].decode().replace("0.", "1.", 3)), "golden output"),
        (lambda d: shutil.rmtree(d), "is not a model card directory"),
    ],
    ids=["licence", "metadata", "no weights", "stray", "weights", "no golden", "golden", "gone"],
)  # fmt: skip
def test_what_is_not_right_is_not_published(hub, token, directory, change, message):
    change(directory)
    with pytest.raises(CxrzooError, match=message):
        publish(directory, REPO)
    assert hub.requests == []


def test_a_dry_run_needs_no_network(directory, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    ready = prepare(directory)
    assert ready.pin is None
    assert sorted(ready.files) == [CARD_FILE, "config.json", WEIGHTS]


STEPS = {
    "create": "POST /api/repos/create",
    "look": "GET /api/models/",
    "announce": "POST ...preupload",
    "large files": "POST ...info/lfs/objects/batch",
    "upload": "PUT /lfs/",
    "commit": "POST ...commit/",
    "fetch back": "GET /lfs/",
    "tag": "POST ...tag/",
}


@pytest.mark.parametrize("fault", ["500", "503", "drop", "answer lost"])
@pytest.mark.parametrize("step", STEPS)
def test_a_publication_that_breaks_off_anywhere_goes_on_when_repeated(
    hub, token, directory, step, fault
):
    before = {p.name: p.read_bytes() for p in directory.iterdir()}
    kind = {"drop": "drop", "answer lost": "drop"}.get(fault, "status")
    status = int(fault) if fault.isdigit() else 0
    lost = fault == "answer lost"
    hub.faults.append(Fault(STEPS[step], kind, times=None, status=status, late=lost))
    with pytest.raises(HubError) as caught:
        publish(directory, REPO)
    assert "\n" not in str(caught.value)
    assert token not in str(caught.value)
    hub.faults.clear()
    done = publish(directory, REPO)
    assert done.pin is not None
    assert np.array_equal(features(cxrzoo.load(f"hf:{REPO}@v1")), EXPECTED)
    assert {p.name: p.read_bytes() for p in directory.iterdir()} == before, "nothing is lost"
    stored = hub.repo(f"models/{REPO}").files("v1")
    assert {name: stored[name] for name in before} == before


def test_an_encoder_that_starts_from_a_published_one_must_name_it(
    hub, token, directory, tmp_path, monkeypatch
):
    cards = tmp_path / "zoo"
    parent = copy_card("supervised-imagenet", cards)
    monkeypatch.setattr(resources, "MODEL_CARDS", cards)
    strategy = [{"method": "moco", "data": "cxr", "init": "supervised-imagenet"}]
    edit_card(directory, name="mine", strategy=strategy)
    prepare(directory)
    weights = {"file": WEIGHTS, "sha256": SHA256, "repo_id": REPO}
    edit_card(parent, weights=weights)
    with pytest.raises(CardError, match=f"needs `base_model: {REPO}` and `base_model_relation: f"):
        publish(directory, "cxrzoo/mine")
    edit_card(directory, base_model=REPO, base_model_relation="finetune")
    assert publish(directory, "cxrzoo/mine").pin


def test_a_full_disk_is_named_as_such(hub, published, monkeypatch):
    import errno

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    with pytest.raises(StorageError, match=r"No space left on device; free some space, or point"):
        cxrzoo.load(NAME)


def test_a_repository_without_a_commit_can_be_published_to(hub, token, directory):
    hub.repo(f"models/{REPO}")
    assert publish(directory, REPO).pin


# What a fresh pair of eyes found -------------------------------------------------------------


def test_a_file_uploaded_by_xet_is_checked_by_its_own_hash(hub, token, directory, monkeypatch):
    """The client links its blob on to a store that is named by xet's hash, of 64 digits too."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    pin = publish(directory, REPO).pin
    assert pin is not None
    for _ in range(2):
        path = zoo_hub.fetch_file(pin, WEIGHTS)
        assert path.read_bytes() == FILES[WEIGHTS]


def test_a_card_with_a_wrong_hash_does_not_cost_the_good_file(hub, published, tmp_path):
    pin = zoo_hub.fetch(NAME).pin
    with pytest.raises(HubError, match=r"has sha256 .*, but the card says 0000"):
        zoo_hub.fetch_file(pin, WEIGHTS, "0" * 64)
    assert blob(tmp_path, WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_a_hub_that_answers_with_another_commit_is_not_believed(hub, published, monkeypatch):
    from huggingface_hub import HfApi

    real = HfApi.model_info

    def sloppy(self, repo_id, *, revision=None, **settings):
        return real(self, repo_id, **settings)

    newer = hub.repo(f"models/{REPO}").commit({**FILES, CARD_FILE: FILES[CARD_FILE] + b"x"})
    monkeypatch.setattr(HfApi, "model_info", sloppy)
    with pytest.raises(HubError, match=f"answers with commit '{newer}', which is not what was"):
        zoo_hub.fetch(f"{NAME}@{published}")


def test_a_record_of_a_zoo_encoder_on_the_hub_says_the_commit_too(
    hub, published, tmp_path, monkeypatch
):
    cards = tmp_path / "cards"
    mine = copy_card("supervised-imagenet", cards)
    (mine / WEIGHTS).unlink()
    edit_card(mine, weights={"file": WEIGHTS, "sha256": SHA256, "repo_id": REPO})
    monkeypatch.setattr(resources, "MODEL_CARDS", cards)
    (made,) = cxrzoo.evaluate(
        ["supervised-imagenet"], ["phantom"], limit=60, seeds=1, budgets=[20],
        output=tmp_path / "runs",
    )  # fmt: skip
    assert made.declared["pin"] == f"hf:{REPO}@{published}"


@pytest.mark.parametrize(
    ("where", "status", "message"),
    [
        ("HEAD ...resolve/", 503, "answers 503 for .*: its fault, not yours; try again later"),
        ("HEAD ...resolve/", 429, "answers 429, too many requests"),
        ("HEAD ...resolve/", 403, "refuses .* with 403: it needs a token: `hf auth login`"),
        ("HEAD ...resolve/", 404, "has no file README.md"),
        ("GET /api/models/", 404, "does not exist on .*, or is private"),
        ("GET /api/models/", 400, "refuses .* with 400"),
        ("GET /api/models/", 407, "refuses .* with 407"),
    ],
)
def test_an_answer_without_the_hubs_own_codes_is_understood(hub, published, where, status, message):
    hub.faults.append(Fault(where, "status", times=None, status=status))
    with pytest.raises(HubError, match=message) as caught:
        cxrzoo.load(NAME)
    assert "\n" not in str(caught.value)


def test_what_the_hub_has_against_a_card_is_said(hub, token, directory):
    hub.card_errors.append('"license" must be one of those we know')
    with pytest.raises(CxrzooError, match="must be one of those we know") as caught:
        publish(directory, REPO)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["hf:a/b--c", "hf:a/b\u00e9", "hf:a/b..c"])
def test_names_that_the_client_refuses_are_no_references(hub, name):
    with pytest.raises(HubError, match="is no encoder on the Hub"):
        cxrzoo.load(name)
    assert not hub.requests


@pytest.mark.parametrize(
    ("front", "message"),
    [
        ("a: " + "[" * 90_000, "nested more than 50 deep"),
        ("a0: &-0 [x]\na1: [*-0, *-0]", "anchors and aliases are not allowed"),
        ("a: &-a [*-a]", "anchors and aliases are not allowed"),
        ("version: 0x" + "f" * 9000, "Field required"),
    ],
    ids=["deep", "anchor with a dash", "a loop", "a long number"],
)
def test_a_card_that_would_exhaust_the_parser_is_refused(tmp_path, front, message):
    from cxrzoo.zoo.card import read_card

    (tmp_path / CARD_FILE).write_text(f"---\n{front}\n---\nx")
    with pytest.raises(CardError, match=message):
        read_card(tmp_path)


@pytest.mark.parametrize(
    "text",
    ['{"golden": ' + "[" * 100_000, '{"golden": {"features": [1' + "0" * 400 + "]}}", "x" * 2**21],
    ids=["deep", "a long number", "too large"],
)
def test_a_config_that_would_exhaust_the_parser_is_refused(directory, text):
    (directory / "config.json").write_text(text)
    with pytest.raises(WeightsError, match="no golden output in it"):
        cxrzoo.load(str(directory))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"license": "Apache-2.0"}, "is none of the Hub's, which are in lower case"),
        ({"license": "other"}, "needs license_name and license_link"),
        ({"base_model": "a/b"}, "base_model and base_model_relation belong together"),
        ({"datasets": ["../evil"]}, "is no id on the Hub"),
    ],
    ids=str,
)
def test_a_page_that_would_be_wrong_is_refused(directory, change, message):
    edit_card(directory, **change)
    with pytest.raises(CardError, match=message):
        prepare(directory)


def test_preparing_changes_no_file_and_asks_nobody(hub, directory):
    before = {p.name: p.read_bytes() for p in directory.iterdir()}
    score = Score("nih14", "NIH ChestX-ray14", "test", 100, "linear-v1", 0.6, 5)
    assert b"model-index" in prepare(directory, [score]).contents[CARD_FILE]
    assert {p.name: p.read_bytes() for p in directory.iterdir()} == before
    (directory / WEIGHTS).unlink()
    weights = {"file": WEIGHTS, "sha256": SHA256, "repo_id": REPO}
    edit_card(directory, weights=weights, verified=False)
    with pytest.raises(WeightsError, match="is missing"):
        prepare(directory)
    assert hub.requests == []


def test_files_of_another_kind_and_a_public_repository_are_not_published_into(
    hub, token, directory
):
    hub.repo(f"models/{REPO}").commit({"modeling.py": b"x", ".gitattributes": b""})
    with pytest.raises(HubError, match=r"holds 'modeling.py' besides an encoder's three"):
        publish(directory, REPO)
    hub.repo("models/cxrzoo/open").commit({".gitattributes": b""})
    with pytest.raises(HubError, match="is public already"):
        publish(directory, "cxrzoo/open", private=True)


def test_two_tags_of_like_names_are_not_confused_offline(hub, published, monkeypatch):
    repo = hub.repo(f"models/{REPO}")
    newer = repo.commit({**FILES, CARD_FILE: FILES[CARD_FILE] + b"x"})
    repo.refs["refs/tags/v/1"], repo.refs["refs/tags/v-1"] = published, newer
    for tag in ("v/1", "v-1"):
        zoo_hub.fetch(f"{NAME}@{tag}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert zoo_hub.fetch(f"{NAME}@v/1").pin.revision == published
    assert zoo_hub.fetch(f"{NAME}@v-1").pin.revision == newer


def test_a_file_name_that_a_terminal_would_obey_is_shown_as_it_is(hub):
    hub.repo(f"models/{REPO}").commit({**FILES, "../\x1b[2J\nError: all fine": b""})
    with pytest.raises(HubError) as caught:
        cxrzoo.load(NAME)
    assert str(caught.value).isprintable()
