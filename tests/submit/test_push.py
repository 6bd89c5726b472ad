"""A submission's way through the Hub: pushed, downloaded, validated, merged; each step a fresh
process with the real client."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from cxrzoo.submit import bundle as bundles
from cxrzoo.submit.bundle import Bundle
from tests.hub.client import NO_WAITING, run_client
from tests.hub.server import Fault, Hub, running_hub
from tests.submit import forge

RESULTS = "lab/results"
PUSH = """
from pathlib import Path
from cxrzoo.errors import CxrzooError
from cxrzoo.submit.bundle import read
from cxrzoo.submit.push import push
try:
    print(push(read(Path({path!r})), {repo_id!r}))
except CxrzooError as error:
    print(error)
"""


def push(hub: Hub, home: Path, path: Path, **settings) -> str:
    settings = {"token": hub.user("somebody"), **settings}
    repo_id = settings.pop("repo_id", RESULTS)
    program = PUSH.format(path=str(path), repo_id=repo_id)
    done = run_client(NO_WAITING + program, hub, home, **settings)
    if settings["token"]:
        assert settings["token"] not in done.stdout + done.stderr
    return done.stdout.strip()


def download(hub: Hub, home: Path, revision: str, path: Path) -> Path:
    """As the workflow does it, with the client's own command."""
    words = ["download", RESULTS, "--repo-type", "dataset", "--revision", revision]
    program = (
        f"{NO_WAITING}import sys; sys.argv = {['hf', *words, '--local-dir', str(path)]!r}\n"
        "from huggingface_hub.cli.hf import main; main()"
    )
    run_client(program, hub, home)
    return path


def cxrzoo(hub: Hub, home: Path, grids: Path, *words: object) -> subprocess.CompletedProcess[str]:
    program = (
        f"{NO_WAITING}from pathlib import Path\nfrom cxrzoo.submit import grid\n"
        f"grid.FOLDER = Path({str(grids)!r})\n"
        f"from cxrzoo.cli import main; main({[str(word) for word in words]!r})"
    )
    return run_client(program, hub, home, check=False, env={"CXRZOO_CACHE": str(home / "cache")})


@pytest.fixture
def saved(sound: Bundle, tmp_path: Path) -> Path:
    path = tmp_path / "bundle.zip"
    bundles.write(sound, path)
    return path


@pytest.fixture
def hub():
    with running_hub() as hub:
        hub.user("lab")
        hub.members["lab"] = {"lab"}
        hub.repo(f"datasets/{RESULTS}").commit({"README.md": b"# Results\n"})
        yield hub


@pytest.mark.parametrize("xet", [False, True], ids=["plain uploads", "xet"])
def test_the_whole_way(hub, saved, sound, tiny_grids, tmp_path, xet):
    repo = hub.repo(f"datasets/{RESULTS}")
    done = push(hub, tmp_path / "author", saved, xet=xet)
    assert f"url='{hub.endpoint}/datasets/{RESULTS}/discussions/1', status='open', new=True" in done
    (pull,) = repo.discussions
    assert (pull.pull, pull.status, pull.author) == (True, "open", "somebody")
    assert pull.title == "Results of my-encoder"
    (commit,) = repo.history("refs/pr/1")[:-1]
    assert {path.split("/")[0] for path in commit.files} == {"README.md", "my-encoder"}
    sent = {name: repo.files("refs/pr/1")[f"my-encoder/{name}"] for name in sound.files}
    assert sent == dict(sound.files)
    assert list(repo.files("main")) == ["README.md"]

    assert "discussions/1', status='open', new=False" in push(
        hub, tmp_path / "author", saved, xet=xet
    )
    assert len(repo.discussions) == 1
    if xet:
        return

    base = download(hub, tmp_path / "ci", "main", tmp_path / "base")
    head = download(hub, tmp_path / "ci", "refs/pr/1", tmp_path / "head")
    checked = cxrzoo(hub, tmp_path / "ci", tiny_grids, "validate", head, "--base", base)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("valid: my-encoder, 4 records on the grid tiny")

    repo.merge(pull, "lab")
    done = push(hub, tmp_path / "author", saved)
    assert done == "Pushed(url=None, status='nothing changed', new=False)"
    assert len(repo.discussions) == 1


def test_a_pull_request_that_touches_another_encoder_fails_the_check(hub, saved, sound, tiny_grids,
                                                                     tmp_path):  # fmt: skip
    repo = hub.repo(f"datasets/{RESULTS}")
    there = {f"my-encoder/{name}": content for name, content in sound.files.items()}
    repo.commit({"README.md": b"# Results\n", **there})
    base = download(hub, tmp_path / "ci", "main", tmp_path / "base")
    repo.commit({"README.md": b"# Results\n", **there, "other/x.py": b"", "my-encoder/y.py": b""})
    head = download(hub, tmp_path / "ci", "main", tmp_path / "head")
    checked = cxrzoo(hub, tmp_path / "ci", tiny_grids, "validate", head, "--base", base)
    assert checked.returncode == 1
    assert "my-encoder, other: changed at once; submit one encoder" in checked.stderr


def test_other_content_is_another_pull_request(hub, saved, tmp_path):
    push(hub, tmp_path, saved)
    better = forge.make(tmp_path / "made", skill=3)
    bundles.write(better, tmp_path / "better.zip")
    assert "discussions/2" in push(hub, tmp_path, tmp_path / "better.zip")


def test_what_the_results_hold_is_not_dropped(hub, saved, sound, tmp_path):
    there = {f"my-encoder/{name}": content for name, content in sound.files.items()}
    hub.repo(f"datasets/{RESULTS}").commit({**there, "my-encoder/records/z.json": b"{}"})
    done = push(hub, tmp_path, saved)
    assert done == "my-encoder/records/z.json: is among the results, and this bundle drops it"


def test_a_draft_is_opened(hub, saved, tmp_path, monkeypatch):
    """Some ways of uploading leave a pull request a draft."""
    from tests.hub.repo import Repo

    original = Repo.open_pull
    monkeypatch.setattr(Repo, "open_pull", lambda *a, **k: original(*a, **{**k, "status": "draft"}))
    assert "status='open', new=True" in push(hub, tmp_path, saved)
    assert hub.repo(f"datasets/{RESULTS}").discussions[0].status == "open"


def test_a_draft_that_an_interrupted_submission_left_is_opened(hub, saved, tmp_path):
    push(hub, tmp_path, saved)
    (pull,) = hub.repo(f"datasets/{RESULTS}").discussions
    pull.status = "draft"
    assert "discussions/1', status='open', new=False" in push(hub, tmp_path, saved)
    assert [pull.status] == ["open"]


@pytest.mark.parametrize(("repo_id", "message"), [
    ("nobody/nothing", "nobody/nothing does not exist"),
    ("hf:lab/results", "'hf:lab/results' is no dataset repository on the Hub; write ORG/NAME"),
    ("results", "'results' is no dataset repository"),
    ("lab/results@main", "'lab/results@main' is no dataset repository"),
])  # fmt: skip
def test_a_repository_that_is_none_is_named(hub, saved, tmp_path, repo_id, message):
    assert message in push(hub, tmp_path, saved, repo_id=repo_id)


def test_without_a_token_it_says_how_to_get_one(hub, saved, tmp_path):
    assert "it needs a token: `hf auth login`" in push(hub, tmp_path, saved, token=None)


def test_a_hub_that_fails_is_named_and_nothing_is_opened(hub, saved, tmp_path):
    hub.faults.append(Fault("POST ...commit/", "status", times=None, status=500))
    done = push(hub, tmp_path, saved)
    assert re.search(r"answers 500 for hf:lab/results: its fault", done), done
    assert hub.repo(f"datasets/{RESULTS}").discussions == []
