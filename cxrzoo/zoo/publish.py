"""Publishing a card directory as a Hub repository: checked before, in one commit, checked after."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cxrzoo.errors import CardError, HubError, WeightsError
from cxrzoo.files import sha256_of_file, write_atomically
from cxrzoo.zoo import registry
from cxrzoo.zoo.card import CARD_FILE, CONFIG_FILE, Card, card_text, read_card, split_front_matter
from cxrzoo.zoo.encoder import load_from
from cxrzoo.zoo.hub import Pin, hub_errors, parse

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_REQUIRED = ("license", "library_name", "pipeline_tag", "tags")
"""Front matter without which the Hub's page of an encoder is not right on its own."""
_MAX_CARD_BYTES, _MAX_CONFIG_BYTES = 1_000_000, 1_000_000


@dataclass(frozen=True)
class Score:
    """A result for the Hub's page: macro AUROC of one benchmark, budget and protocol."""

    benchmark: str
    title: str
    test_set: str
    budget: int | str
    protocol: str
    mean: float
    seeds: int


@dataclass(frozen=True)
class Publication:
    """What is published, or would be: files with size and sha256, the tag, and the pin at last."""

    card: Card
    files: dict[str, tuple[int, str]]
    tag: str
    pin: Pin | None = None


def prepare(directory: Path, scores: Sequence[Score] = ()) -> Publication:
    """Check a card directory as ``load`` will, and for what the Hub's page needs.

    ``scores`` are written into the card first, as ``model-index``.

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
    lacking = [field for field in _REQUIRED if not getattr(card, field)]
    if lacking:
        raise CardError(f"{directory / CARD_FILE}: the Hub's page needs {', '.join(lacking)}")
    _check_base_model(directory, card)
    strange = sorted(p.name for p in directory.iterdir() if p.name not in names)
    if strange:
        raise CardError(
            f"{directory} holds {', '.join(strange)} besides {', '.join(names)}; an encoder's "
            "repository is these three files: move the others elsewhere"
        )
    for name, limit in ((CARD_FILE, _MAX_CARD_BYTES), (CONFIG_FILE, _MAX_CONFIG_BYTES)):
        if (directory / name).exists() and (directory / name).stat().st_size > limit:
            raise CardError(f"{directory / name} is larger than {limit:,} bytes")
    load_from(card, directory)
    if scores:
        _write_scores(directory, card.name, scores)
        card = read_card(directory)
    files = {
        name: ((directory / name).stat().st_size, sha256_of_file(directory / name))
        for name in names
    }
    return Publication(card, files, f"v{card.version}")


def publish(
    directory: Path, repo_id: str, *, private: bool = False, scores: Sequence[Score] = ()
) -> Publication:
    """Upload a card directory in one commit, tag it, and fetch it back to be sure.

    Raises:
        CardError, WeightsError: see ``prepare``.
        HubError: the Hub refuses, the version's tag is taken by other content, somebody else
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
        head = _head(api, repo_id)
        tags = {t.name: t.target_commit for t in api.list_repo_refs(repo_id).tags}
    if ready.tag in tags:
        return _already_there(ready, Pin(repo_id, tags[ready.tag]))
    operations = [CommitOperationAdd(name, str(directory / name)) for name in ready.files]
    with hub_errors(repo_id, None):
        done = api.create_commit(
            repo_id,
            operations,
            commit_message=f"{ready.card.name} {ready.tag}",
            parent_commit=head,
        )
        pin = Pin(repo_id, done.oid)
        _verify(ready, pin)
        api.create_tag(repo_id, tag=ready.tag, revision=pin.revision)
    return Publication(ready.card, ready.files, ready.tag, pin)


def _head(api: HfApi, repo_id: str) -> str | None:
    """The last commit, so that nobody's is overwritten; None where there is none yet."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return api.model_info(repo_id).sha
    except RevisionNotFoundError:
        return None


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


def _already_there(ready: Publication, pin: Pin) -> Publication:
    """The publication when the tag's content is the same; else its version is taken."""
    try:
        _verify(ready, pin)
    except HubError as error:
        raise HubError(
            f"hf:{pin.repo_id} has {ready.tag} already, with other content; raise `version` in the "
            f"card to publish a new one ({error})"
        ) from error
    return Publication(ready.card, ready.files, ready.tag, pin)


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


def _write_scores(directory: Path, name: str, scores: Sequence[Score]) -> None:
    """Write results into the card as ``model-index``."""
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    results = [
        EvalResult(
            task_type="image-classification",
            task_name="multi-label classification at a label budget",
            dataset_type=score.benchmark,
            dataset_name=score.title,
            # in the arguments, budgets would be one dataset to the Hub, and fall together
            dataset_config=f"{score.protocol}, budget {score.budget}",
            dataset_split=score.test_set,
            metric_type="roc_auc",
            metric_name=f"macro AUROC, mean over {score.seeds} draws",
            metric_value=round(score.mean, 4),
        )
        for score in scores
    ]
    front, body = split_front_matter((directory / CARD_FILE).read_text(encoding="utf-8"))
    front["model-index"] = eval_results_to_model_index(name, results)
    write_atomically(directory / CARD_FILE, card_text(front, body).encode())
