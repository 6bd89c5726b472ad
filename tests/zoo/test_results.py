"""Results in cards: the section is made from scores, replaced as a whole, and stays in place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cxrzoo.zoo.results import HEADING, Score, model_index, with_section

SCORE = Score("nlmtb", "Tuberculosis", "test", 100, "linear-v1", 0.8214, 5, (0.749, 0.875), " ?")
BODY = "# mine\n\nStrategy: moco.\n\n## Settings\n\n| a |\n"


def test_the_section_shows_scores_by_budget_before_the_first_section():
    full = replace(SCORE, budget="full", mean=0.9, interval=None, mark="")
    external = replace(SCORE, test_set="montgomery", mean=0.7)
    text = with_section(BODY, [SCORE, full, external])
    assert text.index(HEADING) < text.index("## Settings")
    assert text.endswith("| a |\n")
    rows = [[c.strip() for c in x.split("|")[1:-1]] for x in text.splitlines() if "linear" in x]
    assert rows == [
        ["nlmtb", "linear-v1", "0.821 [0.749, 0.875] ?", "0.900"],
        ["nlmtb → montgomery", "linear-v1", "0.700 [0.749, 0.875] ?", ""],
    ]


@pytest.mark.parametrize("body", [BODY, "# mine\n", "# mine\n\n## A\n\na\n\n## B\n\nb\n"])
def test_writing_again_replaces_it_and_without_scores_it_goes(body):
    once = with_section(body, [SCORE])
    assert with_section(once, [SCORE]) == once
    assert with_section(once, [replace(SCORE, mean=0.5)]).count("0.500") == 1
    assert with_section(once, []).split() == body.split()
    assert with_section(body, []) == body


def test_the_hub_gets_every_budget_by_itself():
    index = model_index("mine", [SCORE, replace(SCORE, budget=1000, mean=0.87654)])
    configs = [r["dataset"]["config"] for r in index[0]["results"]]
    assert configs == ["linear-v1, budget 100", "linear-v1, budget 1000"]
    assert index[0]["results"][1]["metrics"][0]["value"] == 0.8765
