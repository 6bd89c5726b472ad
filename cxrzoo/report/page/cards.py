"""Model cards for the leaderboard: where they are found, and their text as harmless HTML."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

from cxrzoo.errors import CardError
from cxrzoo.evaluation.record import Record
from cxrzoo.zoo import registry
from cxrzoo.zoo.card import CARD_FILE, CONFIG_FILE, Card, read_card, split_front_matter


@dataclass(frozen=True)
class FoundCard:
    """A card, its text below the front matter, and whether the zoo itself has it."""

    card: Card
    body: str
    in_zoo: bool


@dataclass
class Cards:
    """Cards by the encoder's name and the sha256 of its weights; ``broken`` says what was not read.

    A name alone is not enough: records of other weights under that name are another encoder's.
    A card of the zoo that names no hash is found by its pinned commit on the Hub instead.
    """

    found: dict[tuple[str, str], FoundCard] = field(default_factory=dict)
    pinned: dict[tuple[str, str], FoundCard] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def of(self, record: Record) -> FoundCard | None:
        """The card of the encoder that ``record`` measured."""
        encoder, pin = record.spec.encoder, str(record.declared.get("pin"))
        by_hash = self.found.get((encoder.name, encoder.weights_sha256))
        return by_hash or self.pinned.get((encoder.name, pin))

    def add(self, directory: Path, *, in_zoo: bool) -> None:
        """Take up the card in ``directory``, if there are weights that it speaks of."""
        try:
            card = read_card(directory)
        except CardError as error:
            self.broken.append(str(error))
            return
        weights = card.weights
        if weights is None:
            return
        text = (directory / CARD_FILE).read_text(encoding="utf-8-sig")
        found = FoundCard(card, split_front_matter(text)[1], in_zoo)
        if weights.sha256 is not None:
            self.found.setdefault((card.name, weights.sha256), found)
        elif in_zoo:
            pin = f"hf:{weights.repo_id}@{weights.revision}"
            self.pinned.setdefault((card.name, pin), found)


def find_cards(directories: Iterable[Path | str]) -> Cards:
    """The cards of the zoo, and those in card folders below ``directories``."""
    cards = Cards()
    for _, directory in registry.read_all():
        cards.add(directory, in_zoo=True)
    for folder in map(Path, directories):
        for path in sorted(folder.rglob(CONFIG_FILE)):
            if (path.parent / CARD_FILE).is_file():
                cards.add(path.parent, in_zoo=False)
    return cards


def to_html(text: str) -> Markup:
    """A card's Markdown as HTML that can do no harm and asks for nothing.

    Raw HTML is shown as text, links lead to http and https only, images are named instead of
    loaded, and headings begin below those of the page.
    """
    return Markup(_MARKDOWN.render(text))


class _Markdown(MarkdownIt):
    def validateLink(self, url: str) -> bool:
        return url.lower().startswith(("https://", "http://"))


def _heading(
    renderer: Any,
    tokens: Sequence[Token],
    i: int,
    options: Any,
    env: MutableMapping[str, Any],
) -> str:
    level = min(6, int(tokens[i].tag[1:]) + 2)
    return f"</h{level}>\n" if tokens[i].nesting < 0 else f"<h{level}>"


def _image(
    renderer: Any,
    tokens: Sequence[Token],
    i: int,
    options: Any,
    env: MutableMapping[str, Any],
) -> str:
    return f"[image: {escape(tokens[i].content)}]"


def _link(
    renderer: Any,
    tokens: Sequence[Token],
    i: int,
    options: Any,
    env: MutableMapping[str, Any],
) -> str:
    return f'<a href="{escape(tokens[i].attrs["href"])}" rel="noopener noreferrer nofollow">'


_MARKDOWN = _Markdown("commonmark", {"html": False}).enable("table")
_MARKDOWN.add_render_rule("heading_open", _heading)
_MARKDOWN.add_render_rule("heading_close", _heading)
_MARKDOWN.add_render_rule("image", _image)
_MARKDOWN.add_render_rule("link_open", _link)
