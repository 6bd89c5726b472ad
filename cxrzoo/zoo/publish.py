"""Publishing a card directory as a Hub repository: checked before, in one commit, checked after."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cxrzoo.errors import CardError, HubError, WeightsError
from cxrzoo.files import sha256_of_file, write_atomically
from cxrzoo.zoo import registry
from cxrzoo.zoo.card import (
    CARD_FILE,
    CONFIG_FILE,
    Card,
    card_text,
    parse_card,
    read_card,
    split_front_matter,
)
from cxrzoo.zoo.encoder import MAX_CONFIG_BYTES, load_from
from cxrzoo.zoo.hub import TIMEOUT_SECONDS, Pin, hub_errors, parse
from cxrzoo.zoo.results import Score, model_index, with_section

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

_REQUIRED = ("license", "library_name", "pipeline_tag", "tags")
"""Front matter without which the Hub's page of an encoder is not right on its own."""
_MAX_CARD_BYTES = 200_000
_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Publication:
    """What is published, or would be: the files' contents, the tag, and the pin at last."""

    card: Card
    contents: dict[str, bytes]
    tag: str
    pin: Pin | None = None

    @property
    def files(self) -> dict[str, tuple[int, str]]:
        """Size and sha256 of each file."""
        return {
            name: (len(content), hashlib.sha256(content).hexdigest())
            for name, content in self.contents.items()
        }


def prepare(directory: Path, scores: Sequence[Score] = ()) -> Publication:
    """Check a card directory as ``load`` will, and for what the Hub's page needs; no network.

    Raises:
        CardError: the card is malformed or lacks what the page needs, or a file does not belong.
        WeightsError: the weights are absent, altered, or do not reproduce the golden output.
    """
    card = read_card(directory)
    if card.weights is None or card.weights.file is None:
        raise WeightsError(
            f"{directory}: '{card.name}' has no weights file, so there is nothing to publish"
        )
    names = (CARD_FILE, CONFIG_FILE, card.weights.file)
    _check_files(directory, names)
    _check_page(directory / CARD_FILE, card)
    _check_base_model(directory, card)
    # the golden output is checked whatever the card says of being verified
    load_from(card.model_copy(update={"verified": True}), directory)
    contents = {name: (directory / name).read_bytes() for name in names}
    if scores:
        text = _with_scores(contents[CARD_FILE].decode("utf-8-sig"), card, scores)
        parse_card(split_front_matter(text)[0], str(directory / CARD_FILE))
        contents[CARD_FILE] = text.encode()
    return Publication(card, contents, f"v{card.version}")


def publish(
    directory: Path, repo_id: str, *, private: bool = False, scores: Sequence[Score] = ()
) -> Publication:
    """Upload a card directory in one commit, tag it, and fetch it back to be sure.

    ``scores`` are written into the card, as a section and as ``model-index``.

    Raises:
        CardError, WeightsError: see ``prepare``.
        HubError: the Hub refuses, the version's tag is taken by other content, the repository
            holds files of another kind or is public although it should not be, somebody else
            committed at the same time, or what comes back is not what was sent.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    repo_id, revision = parse(repo_id)
    if revision:
        raise HubError(f"publish to a repository, not to a revision of it: leave out '@{revision}'")
    ready = prepare(directory, scores)
    api = HfApi()
    with hub_errors(repo_id, None):
        api.create_repo(repo_id, private=private, exist_ok=True)
        head, tagged = _info(api, repo_id, None), _info(api, repo_id, ready.tag)
    if private and head is not None and head.private is False:
        raise HubError(f"hf:{repo_id} is public already; make it private in its settings first")
    if tagged is not None:
        return _already_there(ready, Pin(repo_id, str(tagged.sha)))
    _check_strangers(ready, repo_id, head)
    operations = [CommitOperationAdd(name, content) for name, content in ready.contents.items()]
    with hub_errors(repo_id, None):
        done = api.create_commit(
            repo_id,
            operations,
            commit_message=f"{ready.card.name} {ready.tag}",
            # so that nobody's commit is overwritten
            parent_commit=None if head is None else head.sha,
        )
    pin = Pin(repo_id, str(done.oid))
    _verify(ready, pin)
    with hub_errors(repo_id, None):
        api.create_tag(repo_id, tag=ready.tag, revision=pin.revision)
    if scores:
        write_atomically(directory / CARD_FILE, ready.contents[CARD_FILE])
    return replace(ready, pin=pin)


def _check_files(directory: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if not (directory / name).is_file():
            what = "the golden output is missing" if name == CONFIG_FILE else "it is missing"
            raise WeightsError(
                f"{directory / name}: {what}; `cxrzoo convert` writes all files of an encoder"
            )
    strange = sorted(p.name for p in directory.iterdir() if p.name not in names)
    if strange:
        raise CardError(
            f"{directory} holds {', '.join(strange)} besides {', '.join(names)}; an encoder's "
            "repository is these three files: move the others elsewhere"
        )
    for name, limit in ((CARD_FILE, _MAX_CARD_BYTES), (CONFIG_FILE, MAX_CONFIG_BYTES)):
        if (directory / name).stat().st_size > limit:
            raise CardError(f"{directory / name} is larger than {limit:,} bytes")


def _check_page(path: Path, card: Card) -> None:
    """What the Hub's page of an encoder needs to be right on its own."""
    lacking = [field for field in _REQUIRED if not getattr(card, field)]
    if lacking:
        raise CardError(f"{path}: the Hub's page needs {', '.join(lacking)}")
    if card.weights is None or card.weights.sha256 is None:
        raise CardError(f"{path}: weights.sha256 is missing: nobody could tell altered weights")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", str(card.license)):
        raise CardError(
            f"{path}: license '{card.license}' is none of the Hub's, which are in lower case, such "
            "as apache-2.0, mit or cc-by-4.0; or `other`, with license_name and license_link"
        )
    if card.license == "other" and not (card.license_name and card.license_link):
        raise CardError(f"{path}: `license: other` needs license_name and license_link")
    if bool(card.base_model) != bool(card.base_model_relation):
        raise CardError(f"{path}: base_model and base_model_relation belong together")
    for repo_id in (*card.datasets, *([card.base_model] if card.base_model else [])):
        if not _HUB_ID.fullmatch(repo_id):
            raise CardError(f"{path}: {repo_id!r} in datasets or base_model is no id on the Hub")


def _check_base_model(directory: Path, card: Card) -> None:
    """The Hub draws the family tree of models from ``base_model``: it must name a parent there."""
    parent = card.strategy[-1].init
    if card.base_model or parent not in registry.list_encoders():
        return
    weights = registry.find(parent)[0].weights
    if weights is not None and weights.repo_id is not None:
        raise CardError(
            f"{directory / CARD_FILE}: starts from '{parent}', so the Hub's page needs "
            f"`base_model: {weights.repo_id}` and `base_model_relation: finetune`"
        )


def _info(api: HfApi, repo_id: str, revision: str | None) -> ModelInfo | None:
    """What the Hub says of a revision; None where there is none, or no commit at all yet."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = api.model_info(repo_id, revision=revision, timeout=TIMEOUT_SECONDS)
    except HfHubHTTPError as error:
        # the repository was just made or found, so what is not there is the revision
        if error.response is not None and error.response.status_code == 404:
            return None
        raise
    return info if info.sha else None


def _check_strangers(ready: Publication, repo_id: str, head: ModelInfo | None) -> None:
    """Refuse to put an encoder among files of another kind, which would look like part of it."""
    there = [s.rfilename for s in (head.siblings if head else None) or ()]
    others = sorted(n for n in there if n not in (*ready.contents, ".gitattributes"))
    if others:
        raise HubError(
            f"hf:{repo_id} holds {', '.join(map(repr, others[:5]))} besides an encoder's three "
            "files; take them out, or publish to a repository of its own"
        )


def _already_there(ready: Publication, pin: Pin) -> Publication:
    """The publication when the tag's content is the same; else its version is taken."""
    try:
        _verify(ready, pin)
    except HubError as error:
        raise HubError(
            f"hf:{pin.repo_id} has {ready.tag} already, with other content; raise `version` in the "
            f"card to publish a new one ({error})"
        ) from error
    return replace(ready, pin=pin)


def _verify(ready: Publication, pin: Pin) -> None:
    """Fetch every file at the commit into an empty cache and compare."""
    from huggingface_hub import hf_hub_download

    with tempfile.TemporaryDirectory(prefix="cxrzoo-") as cache:
        for name, (_, sha256) in ready.files.items():
            with hub_errors(pin.repo_id, pin.revision, name):
                path = hf_hub_download(pin.repo_id, name, revision=pin.revision, cache_dir=cache)
            found = sha256_of_file(Path(path))
            if found != sha256:
                raise HubError(
                    f"{name} of {pin} comes back with sha256 {found}, but {sha256} was sent"
                )


def _with_scores(text: str, card: Card, scores: Sequence[Score]) -> str:
    """The card with results, for readers and for the Hub."""
    front, body = split_front_matter(text)
    front["model-index"] = model_index(card.name, scores)
    return card_text(front, with_section(body, scores))
