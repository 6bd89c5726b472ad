from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrzoo.report import latex
from cxrzoo.report.tables import table
from tests.report.test_tables import make

HOSTILE = r"a_b & 100% $x^2$ {y} #1 ~ \input{/etc/passwd} <z> | † → ± 胸 \n é"


def compiled(body: str, directory) -> subprocess.CompletedProcess:
    head = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    text = f"{head}{body}\n\\end{{document}}\n"
    (directory / "t.tex").write_text(text, encoding="utf-8")
    return subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=directory,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_a_table_compiles_whatever_its_names_and_notes_hold(tmp_path):
    records = [
        make(HOSTILE + e, seed=s, auroc=a + s / 9, notes=[HOSTILE], external={"far": 0.5})
        for e, a in (("1", 0.5), ("2", 0.6))
        for s in range(2)
    ]
    done = compiled(table(records, "latex"), tmp_path)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 1000


@given(st.text(max_size=40))
def test_escaped_text_is_printable_ascii_without_open_braces(text):
    escaped = latex.escape(text)
    assert escaped.isascii()
    assert escaped.isprintable()
    bare = escaped.replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")


def test_headers_are_stacked_and_numbers_do_not_touch_rules():
    text = table([make(external={"far": 0.7})], "latex")
    assert r"\shortstack{b\\@100}" in text
    assert r"\shortstack{b\\$\rightarrow$ far\\@100}" in text
    assert r"\toprule" in text
