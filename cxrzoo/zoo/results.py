"""An encoder's results in its card: a section of the text, and ``model-index`` for the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

HEADING = "## Results"
_NEXT_HEADING = re.compile(r"^## ", re.MULTILINE)
_INTRODUCTION = """\
Macro AUROC, mean over draws of the budget, with its 95 % interval. Written by the program from the
records, not by hand. `?` and `†`: pretraining may have seen, or has seen, images of the benchmark;
`encoder.exposure(benchmark)` says why."""


@dataclass(frozen=True)
class Score:
    """Macro AUROC on one test set of a benchmark, by budget and protocol.

    ``interval`` is the 95 % one where there is any; ``mark`` that of the encoder's exposure.
    """

    benchmark: str
    title: str
    test_set: str
    budget: int | str
    protocol: str
    mean: float
    seeds: int
    interval: tuple[float, float] | None = None
    mark: str = ""

    @property
    def text(self) -> str:
        """As tables show it, without what needs other encoders."""
        bounds = "" if self.interval is None else " [{:.3f}, {:.3f}]".format(*self.interval)
        return f"{self.mean:.3f}{bounds}{self.mark}"


def with_section(body: str, scores: Sequence[Score]) -> str:
    """A card's text with its section of results made anew, or removed where there are none.

    It stays where it was; a new one goes before the first section.
    """
    before, found, after = _split(body)
    if not scores:
        return before + after
    place = before if found else before.rstrip() + "\n\n"
    return f"{place}{HEADING}\n\n{_INTRODUCTION}\n\n{_table(scores)}\n\n{after}".rstrip() + "\n"


def model_index(encoder: str, scores: Iterable[Score]) -> list[dict[str, Any]]:
    """What the Hub's page of the encoder shows as evaluation results."""
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
    found: list[dict[str, Any]] = eval_results_to_model_index(encoder, results)
    return found


def _split(body: str) -> tuple[str, bool, str]:
    """The text before the section of results, whether there is one, and what follows it."""
    start = re.search(rf"^{HEADING}$", body, re.MULTILINE)
    if start is None:
        first = _NEXT_HEADING.search(body)
        at = first.start() if first else len(body)
        return body[:at], False, body[at:]
    following = _NEXT_HEADING.search(body, start.end())
    return body[: start.start()], True, body[following.start() :] if following else ""


def _table(scores: Sequence[Score]) -> str:
    """Benchmarks and protocols by budgets, in the order of the scores."""
    budgets = sorted({s.budget for s in scores}, key=lambda b: (isinstance(b, str), b))
    rows: dict[tuple[str, str], dict[int | str, str]] = {}
    for score in scores:
        external = "" if score.test_set == "test" else f" → {score.test_set}"
        rows.setdefault((score.benchmark + external, score.protocol), {})[score.budget] = score.text
    lines = [[*key, *(cells.get(b, "") for b in budgets)] for key, cells in rows.items()]
    heads = ["benchmark", "protocol", *(f"@{budget}" for budget in budgets)]
    return tabulate(lines, headers=heads, tablefmt="github", disable_numparse=True)
