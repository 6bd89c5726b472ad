"""The local Hub as the real ``huggingface_hub`` sees it, in both ways to move large files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.hub.client import NO_WAITING, run_client
from tests.hub.server import Fault, Hub, running_hub

IMPORTS = """
import json, warnings
from pathlib import Path
from huggingface_hub import CommitOperationAdd as Add, CommitOperationDelete as Delete
from huggingface_hub import HfApi, errors, hf_hub_download, snapshot_download
api = HfApi()
def told(function, *arguments, **options):
    "What a call gives, or the name and the status of its error."
    try:
        return function(*arguments, **options)
    except Exception as error:
        response = getattr(error, "response", None)
        return [type(error).__name__, response.status_code if response is not None else None]
def read(*arguments, **options):
    return Path(hf_hub_download(*arguments, **options)).read_bytes().decode("latin-1")
"""
WEIGHTS = bytes(range(256)) * 40
NAME = "org/encoder"


def said(program: str, hub: Hub, home: Path, **options):
    """What the client prints, as JSON, in its last line."""
    done = run_client(IMPORTS + program, hub, home, **options)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def hub():
    with running_hub() as running:
        yield running


@pytest.fixture
def published(hub):
    """A model with a small and a large file."""
    hub.repo(f"models/{NAME}").commit({"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS})
    return hub


@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])
def test_publish_tag_and_fetch_by_branch_tag_and_sha(hub, tmp_path, xet):
    program = f"""
weights = {WEIGHTS!r}
created = [api.create_repo({NAME!r}), api.create_repo({NAME!r}, exist_ok=True)]
first = api.create_commit({NAME!r}, [
    Add("config.json", b"old"), Add("model.safetensors", weights),
    Add("card/README.md", b"text"), Add("logs/one.txt", b"1"), Add("logs/two.txt", b"2"),
], commit_message="first", commit_description="why")
tags = [told(api.create_tag, {NAME!r}, tag="v1"), told(api.create_tag, {NAME!r}, tag="v1"),
        told(api.create_tag, {NAME!r}, tag="v1", exist_ok=True)]
second = api.create_commit({NAME!r}, [Add("config.json", b"new"), Delete("card/README.md"),
    Delete("logs/")], commit_message="second", parent_commit=first.oid)
stale = told(api.create_commit, {NAME!r}, [Add("config.json", b"no")], commit_message="third",
    parent_commit=first.oid)
unchanged = api.create_commit({NAME!r}, [Add("config.json", b"new"),
    Add("model.safetensors", weights)], commit_message="nothing new")
info = api.model_info({NAME!r}, revision="v1", files_metadata=True)
print(json.dumps({{
    "created": created, "first": first.oid, "second": second.oid, "tags": tags, "stale": stale,
    "unchanged": unchanged.oid, "tagged": info.sha,
    "siblings": {{s.rfilename: [s.size, s.blob_id, s.lfs and s.lfs.sha256] for s in info.siblings}},
    "refs": [[b.name for b in api.list_repo_refs({NAME!r}).branches],
             [t.name for t in api.list_repo_refs({NAME!r}).tags]],
    "log": [[c.title, c.authors] for c in api.list_repo_commits({NAME!r})],
    "files": sorted(api.list_repo_files({NAME!r})),
    "tree": [e.path for e in api.list_repo_tree({NAME!r}, revision="v1")],
    "below": [e.path for e in api.list_repo_tree({NAME!r}, "logs", revision="v1")],
    "absent": told(lambda: list(api.list_repo_tree({NAME!r}, "none"))),
    "paths": [e.path for e in api.get_paths_info({NAME!r}, ["config.json", "nope"])],
    "config": [read({NAME!r}, "config.json", revision=r) for r in ("main", "v1", first.oid)],
    "weights": [read({NAME!r}, "model.safetensors", revision=r) == weights.decode("latin-1")
                for r in ("main", "v1", second.oid)],
}}))
"""
    got = said(program, hub, tmp_path, token=hub.user("ada"), xet=xet)
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    assert got["created"] == [f"{hub.endpoint}/{NAME}"] * 2
    assert got["tags"] == [None, ["HfHubHTTPError", 409], None]
    assert got["stale"] == ["HfHubHTTPError", 412]
    assert got["unchanged"] == got["second"], "the client leaves out what did not change"
    assert got["tagged"] == got["first"]
    assert got["siblings"]["model.safetensors"][::2] == [len(WEIGHTS), sha256]
    blob = hashlib.sha1(b"blob 3\0old").hexdigest()
    assert got["siblings"]["config.json"] == [3, blob, None]
    assert got["refs"] == [["main"], ["v1"]]
    titles = [["second", ["ada"]], ["first", ["ada"]], ["initial commit", ["ada"]]]
    assert got["log"] == titles
    assert got["files"] == [".gitattributes", "config.json", "model.safetensors"]
    assert got["tree"] == [".gitattributes", "card", "config.json", "logs", "model.safetensors"]
    assert got["below"] == ["logs/one.txt", "logs/two.txt"]
    assert got["absent"] == ["RemoteEntryNotFoundError", 404]
    assert got["paths"] == ["config.json"]
    assert got["config"] == ["new", "old", "old"]
    assert got["weights"] == [True] * 3
    assert hub.uploads == ([] if xet else [sha256])
    assert any("xet-write-token" in request for request in hub.requests) == xet
    assert hub.leaked == []
    repo = hub.repo(f"models/{NAME}")
    assert repo.files()["model.safetensors"] == WEIGHTS, "also what only the xet store has"
    assert repo.history()[0].parent == got["first"]


@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])
def test_a_pull_request_from_its_draft_to_its_merge(hub, tmp_path, xet):
    hub.members["org"] = {"ada"}
    base = hub.repo(f"datasets/{NAME}").commit({"results.json": b"{}"})
    program = f"""
where = dict(repo_id={NAME!r}, repo_type="dataset")
refused = told(api.create_commit, operations=[Add("a.npz", b"a" * 99)], commit_message="a", **where)
pull = api.create_commit(operations=[Add("a.npz", b"a" * 99)], commit_message="add a",
    create_pr=True, parent_commit={base!r}, **where)
amended = api.create_commit(operations=[Add("b.json", b"b")], commit_message="add b",
    revision=pull.pr_revision, **where)
draft = api.create_pull_request(title="a draft", **where)
early = told(api.merge_pull_request, discussion_num=draft.num, **where)
api.change_discussion_status(discussion_num=draft.num, new_status="open", comment="go", **where)
details = api.get_discussion_details(discussion_num=pull.pr_num, **where)
print(json.dumps({{
    "refused": refused, "pull": [pull.pr_num, pull.pr_revision, pull.pr_url], "early": early,
    "statuses": [draft.status, *(d.status for d in api.get_repo_discussions(**where))],
    "details": [details.status, details.target_branch, details.conflicting_files],
    "events": [e.type for e in details.events], "diff": details.diff,
    "mine": told(api.merge_pull_request, discussion_num=pull.pr_num, **where),
    "main": api.list_repo_files(**where),
    "there": sorted(api.list_repo_files(revision=pull.pr_revision, **where)),
}}))
"""
    got = said(program, hub, tmp_path / "grace", token=hub.user("grace"), xet=xet)
    assert got["refused"] == ["HfHubHTTPError", 403]
    page = f"{hub.endpoint}/datasets/{NAME}/discussions/1"
    assert got["pull"] == [1, "refs/pr/1", page]
    assert got["early"] == ["HfHubHTTPError", 403]
    assert got["statuses"] == ["draft", "open", "open"]
    assert got["details"] == ["open", "refs/heads/main", []]
    assert got["events"] == ["comment", "commit", "commit"]
    assert "+oid sha256:" in got["diff"]
    assert "+++ b/b.json" in got["diff"]
    assert got["mine"] == ["HfHubHTTPError", 403], "the author has no right to the base"
    assert got["main"] == ["results.json"]
    assert got["there"] == ["a.npz", "b.json", "results.json"]

    hub.repo(f"datasets/{NAME}").commit({"results.json": b"{}", "c.json": b"c"})
    program = f"""
where = dict(repo_id={NAME!r}, repo_type="dataset")
api.merge_pull_request(discussion_num=1, comment="thanks", **where)
details = api.get_discussion_details(discussion_num=1, **where)
info = api.dataset_info({NAME!r})
print(json.dumps([details.status, details.merge_commit_oid == info.sha,
    sorted(s.rfilename for s in info.siblings),
    told(api.merge_pull_request, discussion_num=1, **where)]))
"""
    got = said(program, hub, tmp_path / "ada", token=hub.user("ada"), xet=xet)
    files = ["a.npz", "b.json", "c.json", "results.json"]
    assert got == ["merged", True, files, ["BadRequestError", 400]]


@pytest.mark.parametrize("xet", [False, True], ids=["lfs", "xet"])
def test_folders_branches_copies_and_discussions(hub, tmp_path, xet):
    folder = tmp_path / "folder"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "a b.parquet").write_bytes(WEIGHTS)
    (folder / "notes.txt").write_text("notes")
    program = f"""
from huggingface_hub import CommitOperationCopy as Copy
where = dict(repo_id="ada/set", repo_type="dataset")
api.create_repo(private=True, **where)
api.upload_folder(folder_path={str(folder)!r}, commit_message="folder", **where)
api.create_branch(branch="next", **where)
again = told(api.create_branch, branch="next", **where), told(
    api.create_branch, branch="next", exist_ok=True, **where)
api.create_commit(operations=[Copy("data/a b.parquet", "copy.parquet"), Copy("notes.txt", "n")],
    commit_message="copy", revision="next", **where)
pull = api.upload_folder(folder_path={str(folder)!r}, path_in_repo="more", create_pr=True, **where)
talk = api.create_discussion(title="why", **where)
api.comment_discussion(discussion_num=talk.num, comment="so", **where)
api.rename_discussion(discussion_num=talk.num, new_title="because", **where)
status = api.get_discussion_details(discussion_num=pull.pr_num, **where).status
place = Path(snapshot_download(revision="next", **where))
api.create_tag(tag="gone", **where); api.delete_tag(tag="gone", **where)
refs = api.list_repo_refs(include_pull_requests=True, **where)
api.delete_branch(branch="next", **where)
kept = [api.file_exists(filename="notes.txt", **where),
        api.revision_exists(revision="next", **where)]
api.delete_repo(**where)
print(json.dumps({{
    "again": again, "status": status, "kept": kept, "exists": api.repo_exists(**where),
    "snapshot": sorted(str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()),
    "copied": (place / "copy.parquet").read_bytes() == {WEIGHTS!r},
    "refs": [[r.name for r in kind] for kind in (refs.branches, refs.tags, refs.pull_requests)],
}}))
"""
    got = said(program, hub, tmp_path, token=hub.user("ada"), xet=xet)
    assert got["again"] == [["HfHubHTTPError", 409], None]
    assert got["status"] in ("draft", "open"), "which, depends on the way the client takes"
    files = [".gitattributes", "copy.parquet", "data/a b.parquet", "n", "notes.txt"]
    assert got["snapshot"] == files
    assert got["copied"]
    assert got["refs"] == [["main", "next"], [], ["1"]]
    assert got["kept"] == [True, False]
    assert not got["exists"]
    assert hub.leaked == []


def test_pull_requests_that_change_the_same_file_conflict(hub, tmp_path):
    repo = hub.repo(f"models/{NAME}")
    start = repo.commit({"a": b"1"})
    pull = repo.open_pull(
        "mine", "grace", status="open", base="refs/heads/main", start=start, text=""
    )
    repo.commit({"a": b"2"}, pull.ref)
    repo.commit({"a": b"3"})
    program = f"""
print(json.dumps([api.get_discussion_details({NAME!r}, 1).conflicting_files,
                  told(api.merge_pull_request, {NAME!r}, 1)]))
"""
    assert said(program, hub, tmp_path, token=hub.user("ada")) == [["a"], ["HfHubHTTPError", 409]]


def test_who_may_see_and_do_what(published, tmp_path):
    hub = published
    hub.members["org"] = {"ada"}
    hub.repo("models/org/hidden").commit({"a": b"1"})
    hub.repo("models/org/hidden").private = True
    hub.repo("models/org/gated").commit({"a": b"1"})
    program = f"""
who = told(lambda: api.whoami()["name"])
print(json.dumps([who, told(lambda: api.model_info("org/hidden").private),
    told(read, "org/hidden", "a"), told(lambda: api.model_info("org/gated").gated),
    told(read, "org/gated", "a"), told(api.auth_check, "org/gated"),
    told(api.auth_check, {NAME!r}, write=True),
    told(api.create_repo, "org/new"), told(api.create_tag, {NAME!r}, tag=f"of-{{who}}"),
    told(read, "org/none", "a"), told(read, {NAME!r}, "none"),
    told(read, {NAME!r}, "config.json", revision="none")]))
"""
    settings = 'api.update_repo_settings("org/gated", gated="manual"); print("1")'
    said(settings, hub, tmp_path / "0", token=hub.user("ada"))
    ada = said(program, hub, tmp_path / "1", token=hub.user("ada"))
    grace = said(program, hub, tmp_path / "2", token=hub.user("grace"))
    nobody = said(program, hub, tmp_path / "3")
    stranger = said("print(json.dumps(told(api.model_info, 'org/encoder')))", hub, tmp_path / "4",
                    token="hf_unknown")  # fmt: skip
    missing, gate = ["RepositoryNotFoundError", 404], ["GatedRepoError", 403]
    forbidden, unknown = ["HfHubHTTPError", 403], ["HfHubHTTPError", 401]
    absent = [missing, ["RemoteEntryNotFoundError", 404], ["RevisionNotFoundError", 404]]
    new = f"{hub.endpoint}/org/new"
    assert ada == ["ada", True, "1", "manual", "1", None, None, new, None, *absent]
    assert grace == ["grace", missing, missing, "manual", gate, gate, *[forbidden] * 3, *absent]
    no_token = ["LocalTokenNotFoundError", None]
    assert nobody == [no_token, missing, missing, "manual", gate, gate, *[unknown] * 3, *absent]
    assert stranger == unknown


def test_a_token_stays_with_the_hub_and_offline_asks_nothing(published, tmp_path):
    hub = published
    token = hub.user("ada")
    fetch = f'print(json.dumps([len(read({NAME!r}, "model.safetensors"))]))'
    said(fetch, hub, tmp_path, token=token)
    storage = [request for request in hub.requests if " /lfs/" in request]
    assert [request.authorization for request in storage] == [None]
    assert storage[0].host.startswith("localhost:")
    assert hub.requests[0].authorization == f"Bearer {token}"
    hub.requests.clear()
    assert said(fetch, hub, tmp_path, token=token, offline=True) == [len(WEIGHTS)]
    assert hub.requests == []


def test_a_card_is_checked_before_anything_is_sent(hub, tmp_path):
    hub.repo(f"models/{NAME}").commit({"a": b"1"})
    hub.card_errors.append("license is unknown")
    program = f"""
try:
    api.create_commit({NAME!r}, [Add("README.md", b"---\\na: 1\\n---\\n")], commit_message="card")
except ValueError as error:
    print(json.dumps(str(error)))
"""
    assert "license is unknown" in said(program, hub, tmp_path, token=hub.user("ada"))
    assert not any("/commit/" in request for request in hub.requests)


def test_listings_come_in_pages(hub, tmp_path):
    hub.page_size = 2
    hub.repo(f"models/{NAME}").commit({f"{i}/file": b"1" for i in range(3)})
    program = f"print(json.dumps(sorted(api.list_repo_files({NAME!r}))))"
    assert said(program, hub, tmp_path) == ["0/file", "1/file", "2/file"]
    assert sum("/tree/" in request for request in hub.requests) == 3


LARGE, SMALL = "GET /lfs/...model.safetensors", "...resolve/main/config.json"
FAULTS = {
    "cut": (Fault(LARGE, "cut", after=4000), "model.safetensors", "same"),
    "cut for ever": (Fault(LARGE, "cut", None), "model.safetensors", "RemoteProtocolError"),
    "dropped": (Fault(LARGE, "drop"), "model.safetensors", "same"),
    "head dropped": (Fault(SMALL, "drop", None), "config.json", "RemoteProtocolError"),
    "altered": (Fault(LARGE, "alter"), "model.safetensors", "other"),
    "wrong etag": (Fault("HEAD " + SMALL, "etag"), "config.json", "same"),
    "too short": (Fault(LARGE, "wrong_length", None), "model.safetensors", "OSError"),
    "too long": (Fault(LARGE, "wrong_length", delta=9), "model.safetensors", "OSError"),
    "wrong size announced": (
        Fault("HEAD ...model.safetensors", "wrong_length", delta=1),
        "model.safetensors",
        "OSError",
    ),
    "slow": (Fault(LARGE, "slow", seconds=1.5, after=10), "model.safetensors", "same"),
    "401": (Fault(SMALL, "status", None, status=401), "config.json", "HfHubHTTPError"),
    "403": (
        Fault(SMALL, "status", None, status=403, code="GatedRepo"),
        "config.json",
        "GatedRepoError",
    ),
    "404": (
        Fault(SMALL, "status", None, status=404, code="RepoNotFound"),
        "config.json",
        "RepositoryNotFoundError",
    ),
    "429": (Fault("GET " + SMALL, "status", status=429, retry_after=7), "config.json", "same"),
    "500": (Fault(SMALL, "status", None, status=500), "config.json", "LocalEntryNotFoundError"),
    "503": (Fault(LARGE, "status", status=503), "model.safetensors", "HfHubHTTPError"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_seen_by_the_client(published, tmp_path, name):
    fault, file, expected = FAULTS[name]
    published.faults.append(fault)
    program = f"""
try:
    content = read({NAME!r}, {file!r})
    print(json.dumps([content, sorted(p.name for p in Path({str(tmp_path)!r}).rglob("blobs/*"))]))
except Exception as error:
    print(json.dumps(type(error).__name__))
"""
    timeout = {"HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    got = said(NO_WAITING + program, published, tmp_path, env=timeout)
    true = published.repo(f"models/{NAME}").files()[file].decode("latin-1")
    outcome = got if isinstance(got, str) else "same" if got[0] == true else "other"
    assert outcome == expected
    assert published.faulted
    assert {entry.split()[0] for entry in published.faulted} == {fault.kind}
    if name == "wrong etag":
        assert got[1] == ["0" * 40], "the cache names the blob as the Hub said"


def test_a_download_cut_late_goes_on_from_there(hub, tmp_path):
    content = bytes(12 << 20)
    hub.repo(f"models/{NAME}").commit({"model.safetensors": content})
    hub.faults.append(Fault(LARGE, "cut", after=11 << 20))
    program = f"""
import hashlib
path = hf_hub_download({NAME!r}, "model.safetensors")
print(json.dumps(hashlib.sha256(Path(path).read_bytes()).hexdigest()))
"""
    got = said(NO_WAITING + program, hub, tmp_path)
    assert got == hashlib.sha256(content).hexdigest()
    ranges = [request.range for request in hub.requests if request.startswith("GET /lfs/")]
    assert ranges == [None, f"bytes={10 << 20}-"], "the client keeps whole pieces of 10 MiB"


def test_a_commit_whose_answer_is_lost_is_there_nevertheless(published, tmp_path):
    program = f"""
print(json.dumps(told(api.create_commit, {NAME!r}, [Add("a", b"1")], commit_message="a")))
"""
    token = published.user("ada")
    published.faults += [Fault("POST ...commit/main", "status", status=412)]
    assert said(program, published, tmp_path, token=token) == ["HfHubHTTPError", 412]
    assert "a" not in published.repo(f"models/{NAME}").files()
    published.faults += [Fault("POST ...commit/main", "drop", late=True)]
    assert said(program, published, tmp_path, token=token) == ["RemoteProtocolError", None]
    assert "a" in published.repo(f"models/{NAME}").files()
    assert len(published.repo(f"models/{NAME}").history()) == 2


def test_a_fault_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="none of cut, status, slow"):
        Fault("GET /", "typo")
