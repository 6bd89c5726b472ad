"""The whole way of an encoder through the Hub, by the command line, each step a fresh process."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from cxrzoo import resources
from tests.hub.client import NO_WAITING, run_client
from tests.hub.server import Hub, running_hub
from tests.zoo.cards import copy_card

REPO = "cxrzoo/supervised-imagenet"
SHA256 = hashlib.sha256(
    (resources.MODEL_CARDS / "supervised-imagenet/model.safetensors").read_bytes()
).hexdigest()
LOAD = """
import sys, numpy, torch, cxrzoo
from cxrzoo.zoo.encoder import golden_output
encoder = cxrzoo.load(sys.argv[1])
packaged = cxrzoo.load("supervised-imagenet")
print(golden_output(encoder) == golden_output(packaged), encoder.pin)
"""


def run(hub: Hub, home: Path, *arguments: object, **settings) -> tuple[int, str, str]:
    """``cxrzoo ARGUMENTS`` in a process whose client speaks to ``hub``."""
    words = [str(a) for a in arguments]
    program = f"{NO_WAITING}from cxrzoo.cli import main; main({words!r})"
    env = {"CXRZOO_CACHE": str(home / "cxrzoo")}
    done = run_client(program, hub, home / "hf", env=env, check=False, **settings)
    return done.returncode, done.stdout, done.stderr


def load(hub: Hub, home: Path, name: str, **settings) -> str:
    program = f"{NO_WAITING}import sys; sys.argv = ['x', {name!r}]\n{LOAD}"
    env = {"CXRZOO_CACHE": str(home / "cxrzoo")}
    return run_client(program, hub, home / "hf", env=env, **settings).stdout.strip()


@pytest.mark.parametrize("xet", [False, True], ids=["plain uploads", "xet"])
def test_published_fetched_by_branch_tag_and_commit_and_then_offline(tmp_path, xet):
    directory = copy_card("supervised-imagenet", tmp_path / "cards")
    away = tmp_path / "user"
    with running_hub() as hub:
        token = hub.user("cxrzoo")
        status, out, err = run(
            hub, tmp_path / "author", "publish", directory, "--repo-id", REPO, token=token, xet=xet
        )
        assert status == 0, err
        assert f"model.safetensors: 7,020,288 bytes, sha256 {SHA256}" in out
        (revision,) = re.findall(r"^revision: ([0-9a-f]{40})$", out, re.MULTILINE)
        assert token not in out + err

        for name in (f"hf:{REPO}", f"hf:{REPO}@v1", f"hf:{REPO}@{revision}"):
            clean = tmp_path / name.replace("/", "-")
            status, out, err = run(hub, clean, "fetch", name, "--json", xet=xet)
            assert status == 0, err
            assert json.loads(out)["pin"] == f"hf:{REPO}@{revision}"
            assert json.loads(out)["sha256"] == SHA256
        assert load(hub, away, f"hf:{REPO}@v1", xet=xet) == f"True hf:{REPO}@{revision}"
        assert hub.leaked == []

        hub.requests.clear()
        status, _, err = run(hub, away, "fetch", f"hf:{REPO}@{revision}", xet=xet)
        assert (status, hub.requests) == (0, []), err
    # the server has stopped
    assert load(hub, away, f"hf:{REPO}@{revision}") == f"True hf:{REPO}@{revision}"
    assert load(hub, away, f"hf:{REPO}@v1", offline=True) == f"True hf:{REPO}@{revision}"
    status, _, err = run(hub, tmp_path / "nothing", "fetch", f"hf:{REPO}", "--offline")
    assert status == 1
    assert "and the Hub may not be asked (offline): run `cxrzoo fetch` for it once" in err


def test_a_dry_run_uploads_nothing_and_needs_no_hub(tmp_path):
    directory = copy_card("supervised-imagenet", tmp_path / "cards")
    with running_hub() as hub:
        status, out, err = run(
            hub, tmp_path, "publish", directory, "--repo-id", REPO, "--dry-run", "--json"
        )
        assert status == 0, err
        assert json.loads(out)["revision"] is None
        assert json.loads(out)["files"]["model.safetensors"]["sha256"] == SHA256
        assert hub.requests == []


def test_results_of_an_evaluation_go_into_the_published_card(tmp_path):
    directory = copy_card("supervised-imagenet", tmp_path / "cards")
    with running_hub() as hub:
        token = hub.user("cxrzoo")
        status, _, err = run(
            hub, tmp_path, "eval", "-e", directory, "-b", "phantom", "--limit", 60, "--budget", 20,
            "--budget", 30, "--seeds", 1, "--protocol", "linear", "-o", tmp_path / "runs",
        )  # fmt: skip
        assert status == 0, err
        status, _, err = run(
            hub, tmp_path, "publish", directory, "--repo-id", REPO, "--results",
            tmp_path / "runs", token=token,
        )  # fmt: skip
        assert status == 0, err
        (card,) = (
            content
            for path, content in hub.repo(f"models/{REPO}").files("main").items()
            if path == "README.md"
        )
    assert b"model-index" in card
    assert b"linear-v1, budget 20" in card
    assert b"linear-v1, budget 30" in card


def test_a_zoo_encoder_at_hand_needs_no_hub(tmp_path):
    with running_hub() as hub:
        status, out, err = run(hub, tmp_path, "fetch", "supervised-imagenet")
        assert status == 0, err
        assert SHA256 in out
        status, _, err = run(hub, tmp_path, "fetch", "supervised-imagenet@v1")
        assert status == 1
        assert "'supervised-imagenet' has no repository on the Hub" in err
        status, _, err = run(hub, tmp_path, "fetch", "swav-cxr")
        assert "has no weights yet" in err
        assert hub.requests == []
