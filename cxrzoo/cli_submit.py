"""``cxrzoo submit`` and ``validate``."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cxrzoo.cli_shared import DATA_ROOT, JSON, OFFLINE, WORKERS

if TYPE_CHECKING:
    from cxrzoo.submit.validate import Report

DEVICE = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."
)
BASE = click.option(
    "--base", type=click.Path(path_type=Path), metavar="RESULTS", help="The results as they are."
)
TRIAL = click.option(
    "--trial",
    is_flag=True,
    help="Take a bundle of a grid for trying (phantom), for results of your own.",
)


@click.command("submit")
@click.argument("encoder", metavar="DIR|hf:org/repo")
@click.option("--out", type=click.Path(path_type=Path), help="Bundle to write: a folder, or a zip.")
@click.option("--grid", "grid_name", default="open", show_default=True, help="Cells to fill.")
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default="runs",
    show_default=True,
    help="Records that are there already, and new ones.",
)
@click.option("--with-weights", is_flag=True, help="Put the weights into the bundle, for --rerun.")
@click.option("--push", "pushes", is_flag=True, help="Open a pull request on --repo-id.")
@click.option("--repo-id", metavar="ORG/NAME", help="The dataset repository of the results.")
@BASE
@TRIAL
@DATA_ROOT
@DEVICE
@WORKERS
@OFFLINE
def submit_command(
    encoder: str,
    out: Path | None,
    grid_name: str,
    runs: Path,
    with_weights: bool,
    pushes: bool,
    repo_id: str | None,
    base: Path | None,
    trial: bool,
    data_root: Path | None,
    device: str,
    workers: int | None,
    offline: bool,
) -> None:
    """Evaluate an encoder on the required grid and bundle card, records and predictions.

    Finished cells in --runs are not computed again. The bundle is checked as `cxrzoo validate`
    does; with --push it becomes one pull request on the results.
    """
    from cxrzoo.zoo.hub import go_offline

    if out is None and not pushes:
        raise click.UsageError("say where the bundle goes: --out BUNDLE, or --push")
    if pushes and repo_id is None:
        raise click.UsageError("--push needs --repo-id ORG/NAME, the dataset of the results")
    if pushes and offline:
        raise click.UsageError("--push needs the network, which --offline forbids")
    if offline:
        go_offline()
    from cxrzoo.report.cells import Evidence
    from cxrzoo.submit import bundle as bundles
    from cxrzoo.submit import grid as grids
    from cxrzoo.submit.build import Plan, build
    from cxrzoo.submit.container import BundleError
    from cxrzoo.submit.push import dataset_id
    from cxrzoo.submit.validate import trial_problem, validate

    grid = grids.find(grid_name)
    if pushes and grid.trial and not trial:
        raise BundleError(trial_problem(grid_name))
    if repo_id is not None:
        dataset_id(repo_id)
    plan = Plan(encoder, grid, runs, data_root, base, device, workers, with_weights)
    made = build(plan)
    with tempfile.TemporaryDirectory(prefix="cxrzoo-") as folder:
        place = out or Path(folder) / "bundle"
        bundles.write(made, place)
        report = validate(place, base=base, evidence=Evidence([], data_root), trial=trial)
    _print_report(report)
    if out is not None:
        click.echo(f"bundle: {out}")
    if repo_id is not None and pushes:
        from cxrzoo.submit.push import push

        done = push(made, repo_id)
        if done.url is None:
            click.echo(f"{repo_id} holds exactly this already: nothing changed")
        else:
            word = "pull request" if done.new else "there already with this content"
            click.echo(f"{word}: {done.url}\nstatus: {done.status}")


@click.command("validate")
@click.argument("path", metavar="BUNDLE", type=click.Path(path_type=Path))
@BASE
@click.option("--accept", "accepts", is_flag=True, help="Copy it into RESULTS, and note its tier.")
@TRIAL
@click.option("--rerun", "reruns", is_flag=True, help="Repeat cells, drawn by a hash; runs torch.")
@click.option("--cells", type=click.IntRange(1), help="How many cells to repeat; 3 by default.")
@click.option(
    "--encoder-dir",
    metavar="DIR|hf:org/repo",
    help="Where the weights are, if not in the bundle.",
)
@click.option("--draw", default="", help="A word of yours, which changes the cells drawn.")
@DATA_ROOT
@DEVICE
@JSON
def validate_command(
    path: Path,
    base: Path | None,
    accepts: bool,
    trial: bool,
    reruns: bool,
    cells: int | None,
    encoder_dir: str | None,
    draw: str,
    data_root: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Check a bundle, or a whole checkout of results that holds one more than --base.

    Without network, and without running anything of the bundle; --rerun alone loads its weights.
    Metrics are recomputed where labels are below --data-root; of the phantom they always are. Exit
    status 1 when it is refused.
    """
    if accepts and base is None:
        raise click.UsageError("--accept needs --base RESULTS, where the bundle goes")
    if not reruns and (cells or encoder_dir or draw or device != "auto"):
        raise click.UsageError("--cells, --encoder-dir, --draw and --device are of --rerun")
    from cxrzoo.evaluation.verification import MIN_RERUN
    from cxrzoo.report.cells import Evidence
    from cxrzoo.submit.validate import accept, validate

    rerun = None
    if reruns:
        from cxrzoo.submit.rerun import Rerun

        rerun = Rerun(cells or MIN_RERUN, encoder_dir, data_root, device, draw)
    evidence = Evidence([], data_root)
    report = validate(path, base=base, evidence=evidence, trial=trial, rerun=rerun)
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=1, ensure_ascii=False))
    else:
        _print_report(report, fails=False)
    if not report.ok:
        click.get_current_context().exit(1)
    if accepts and base is not None:
        for written in accept(report, base):
            click.echo(f"written: {written}", err=as_json)


def _print_report(report: Report, *, fails: bool = True) -> None:
    """The verdict on stdout, or problems on stderr; with ``fails`` these raise."""
    from cxrzoo.submit.container import BundleError

    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    if report.ok and report.bundle is not None:
        about = report.bundle.manifest
        click.echo(
            f"valid: {about.encoder}, {len(report.records)} records on the grid {about.grid}, "
            f"{len(report.recomputed)} recomputed, {len(report.rerun)} repeated; tier {report.tier}"
        )
        return
    count = len(report.problems)
    lines = "\n".join([f"refused: {count} problem{'s' * (count != 1)}", *report.problems])
    if fails:
        raise BundleError(lines)
    click.echo(lines, err=True)
