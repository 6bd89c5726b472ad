"""One pull request with a bundle on a dataset repository of results."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cxrzoo.errors import HubError
from cxrzoo.submit.bundle import Bundle
from cxrzoo.submit.container import BundleError
from cxrzoo.zoo.hub import TIMEOUT_SECONDS, hub_errors, parse

if TYPE_CHECKING:
    from huggingface_hub import HfApi

KIND = "dataset"


@dataclass(frozen=True)
class Pushed:
    """A pull request and its status; without one where ``main`` holds the same already."""

    url: str | None
    status: str
    new: bool


def push(bundle: Bundle, repo_id: str) -> Pushed:
    """Open a pull request that adds the bundle's folder, unless one with its content is open.

    Args:
        bundle: a bundle that was validated.
        repo_id: the dataset repository, ``ORG/NAME``.

    Raises:
        BundleError: the results hold files that it would drop.
        HubError: the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    repo_id = dataset_id(repo_id)
    api = HfApi()
    files = {f"{bundle.folder}/{name}": content for name, content in bundle.files.items()}
    with hub_errors(repo_id, None):
        there = _hashes(api, repo_id, None, bundle.folder)
        if _same(files, there):
            return Pushed(None, "nothing changed", new=False)
        dropped = sorted(set(there) - set(files))
        if dropped:
            raise BundleError(f"{dropped[0]}: is among the results, and this bundle drops it")
        known = _open_pull(api, repo_id, bundle, files)
        if known is not None:
            return known
        done = api.create_commit(
            repo_id,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=_title(bundle),
            commit_description=_description(bundle),
            repo_type=KIND,
            create_pr=True,
        )
        if done.pr_num is None:
            raise HubError(f"{repo_id}: the Hub made a commit, {done.oid}, but no pull request")
        return Pushed(done.pr_url, _opened(api, repo_id, done.pr_num), new=True)


def _opened(api: HfApi, repo_id: str, num: int) -> str:
    """The status of a pull request, which some ways of uploading leave a draft."""
    details = api.get_discussion_details(repo_id, num, repo_type=KIND)
    if details.status == "draft":
        api.change_discussion_status(repo_id, num, "open", repo_type=KIND)
        details = api.get_discussion_details(repo_id, num, repo_type=KIND)
    return str(details.status)


def _open_pull(
    api: HfApi, repo_id: str, bundle: Bundle, files: Mapping[str, bytes]
) -> Pushed | None:
    """The open pull request of this encoder that holds the same content, if there is one."""
    pulls = api.get_repo_discussions(repo_id, repo_type=KIND, discussion_type="pull_request")
    for pull in pulls:
        # a draft is what an interrupted submission leaves
        if pull.title != _title(bundle) or pull.status not in ("open", "draft"):
            continue
        if _same(files, _hashes(api, repo_id, f"refs/pr/{pull.num}", bundle.folder)):
            return Pushed(pull.url, _opened(api, repo_id, pull.num), new=False)
    return None


def _hashes(api: HfApi, repo_id: str, revision: str | None, folder: str) -> dict[str, str]:
    """By path the hashes of the files in a folder: sha256 of large ones, git's of others."""
    info: Any = api.dataset_info(
        repo_id, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS
    )
    return {
        file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id
        for file in info.siblings or ()
        if file.rfilename.startswith(f"{folder}/")
    }


def _same(files: Mapping[str, bytes], there: Mapping[str, str]) -> bool:
    return files.keys() == there.keys() and all(
        there[name] in (hashlib.sha256(content).hexdigest(), _git_id(content))
        for name, content in files.items()
    )


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _title(bundle: Bundle) -> str:
    return f"Results of {bundle.manifest.encoder}"


def _description(bundle: Bundle) -> str:
    about = bundle.manifest
    return (
        f"{len(bundle.record_names)} records on the grid `{about.grid}`, made with cxrzoo "
        f"{about.cxrzoo}; weights sha256 `{about.weights_sha256}`.\n\n"
        "Checked with `cxrzoo validate`."
    )


def dataset_id(text: str) -> str:
    """The name of a dataset repository, checked; raises HubError."""
    try:
        repo_id, revision = parse(text)
    except HubError:
        repo_id, revision = "", None
    if not repo_id or revision or text.startswith("hf:"):
        raise HubError(f"{text!r} is no dataset repository on the Hub; write ORG/NAME")
    return repo_id
