"""Tables for LaTeX, with the package booktabs alone; any text compiles under pdflatex."""

from __future__ import annotations

from collections.abc import Sequence

_COMMANDS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "†": r"\textdagger{}",
    "→": r"$\rightarrow$",
    "±": r"$\pm$",
}


def escape(text: str) -> str:
    """Text as LaTeX; what a plain pdflatex cannot set becomes its code point, as in U+4E2D."""
    return "".join(_COMMANDS.get(c) or _plain(c) for c in text)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """A ``table`` environment of escaped texts; the first note is its caption."""
    caption, *others = notes
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{l{'c' * (len(headers) - 1)}}}",
        r"\toprule",
        _line([_stacked(h) for h in headers]),
        r"\midrule",
        *map(_line, rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\raggedright\scriptsize",
        *(rf"{note}\par" for note in others),
        r"\end{table}",
    ]
    return "\n".join(lines)


def _stacked(header: str) -> str:
    """External set and budget below the benchmark: columns are as wide as a score."""
    arrow = escape(" → ")
    parts = header.replace(arrow, rf"\\{arrow.lstrip()}").replace(" @", r"\\@")
    return rf"\shortstack{{{parts}}}" if parts != header else header


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _plain(character: str) -> str:
    if character.isascii():
        return character if character.isprintable() else " "
    return f"U+{ord(character):04X}"
