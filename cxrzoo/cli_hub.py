"""``cxrzoo convert``, ``fetch`` and ``publish``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrzoo.cli_shared import DATA_ROOT, JSON, OFFLINE

if TYPE_CHECKING:
    from cxrzoo.zoo.publish import Publication
    from cxrzoo.zoo.results import Score


@click.command("convert")
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--format", "format_name", help="Where the checkpoint comes from; else found.")
@click.option("--arch", help="timm architecture for a new card; else found.")
@click.option("--name", help="Name for a new card; else the directory's.")
@click.option("--source-url", metavar="URL", help="Where the checkpoint was published.")
@click.option("--license", help="Licence of the weights, for a new card.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
def convert_command(source: Path, output: Path, **settings: Any) -> None:
    """Turn a checkpoint into safetensors in the card directory OUTPUT.

    The card there is updated. Where there is none, one is written; read it: what the checkpoint
    does not tell, it calls an assumption or unknown.
    """
    from cxrzoo.zoo.convert import convert

    encoder = convert(source, directory=output, **settings)
    click.echo(f"{encoder.card.name}: {output} sha256 {encoder.weights_sha256}")


@click.command("fetch")
@click.argument("name", metavar="NAME[@REVISION]")
@OFFLINE
@JSON
def fetch_command(name: str, offline: bool, as_json: bool) -> None:
    """Put an encoder's files into the cache, check them, and say where they are.

    NAME is a zoo name or hf:org/repo. A branch or tag is made a commit, which is printed: write
    it behind the @ to get the same files for ever, and without a request once they are cached.
    """
    from cxrzoo.zoo.hub import go_offline

    if offline:
        go_offline()
    from cxrzoo.zoo.encoder import fetch_files

    card, path, pin = fetch_files(name)
    found: dict[str, Any] = {
        "name": card.name,
        "pin": None if pin is None else str(pin),
        "sha256": card.weights.sha256 if card.weights else None,
        "path": str(path),
    }
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        click.echo("\n".join(f"{key}: {value}" for key, value in found.items() if value))


@click.command("publish")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--repo-id", required=True, metavar="ORG/NAME", help="Where on the Hub.")
@click.option("--private", is_flag=True, help="If the repository is made, make it private.")
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    help="Records to write into the card for the Hub's page.",
)
@DATA_ROOT
@click.option("--dry-run", is_flag=True, help="Check everything, upload nothing, ask nobody.")
@JSON
def publish_command(
    directory: Path,
    repo_id: str,
    private: bool,
    results: Path | None,
    data_root: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Publish a card directory on the Hugging Face Hub, in one commit and with a tag.

    The weights are loaded and checked first, and fetched back and compared afterwards. The pin
    that is printed belongs into the card of whoever wants exactly these files.
    """
    from cxrzoo.zoo import publish

    scores = _scores(results, directory, data_root) if results else ()
    if dry_run:
        done = publish.prepare(directory, scores)
    else:
        done = publish.publish(directory, repo_id, private=private, scores=scores)
    if as_json:
        click.echo(json.dumps(_as_dict(done, repo_id), indent=1, ensure_ascii=False))
        return
    for name, (size, sha256) in done.files.items():
        click.echo(f"{name}: {size:,} bytes, sha256 {sha256}")
    if done.pin is None:
        click.echo(f"dry run: would become {done.tag} of hf:{repo_id}; nothing was uploaded")
    else:
        click.echo(f"published: {done.pin} as {done.tag}, fetched back and equal")
        click.echo(f"revision: {done.pin.revision}")


def _as_dict(done: Publication, repo_id: str) -> dict[str, Any]:
    return {
        "repo_id": repo_id,
        "tag": done.tag,
        "revision": None if done.pin is None else done.pin.revision,
        "files": {name: {"bytes": n, "sha256": s} for name, (n, s) in done.files.items()},
    }


def _scores(results: Path, directory: Path, data_root: Path | None) -> list[Score]:
    """The scores of the card's encoder among the records below a folder."""
    from cxrzoo.errors import RecordError
    from cxrzoo.evaluation.record import read_records
    from cxrzoo.report.cells import Evidence
    from cxrzoo.report.grid import measure
    from cxrzoo.report.own import scores_of
    from cxrzoo.zoo.card import read_card

    weights = read_card(directory).weights
    digest = weights.sha256 if weights else None
    mine = [r for r in read_records(results) if r.spec.encoder.weights_sha256 == digest]
    found = scores_of(digest, measure(mine, Evidence([results], data_root))) if digest else []
    if not found:
        raise RecordError(f"{results}: no record of the weights in {directory}")
    return found
