"""What every declarative file shares: strict schemas, safe YAML, errors a person reads."""

from __future__ import annotations

from collections import Counter
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class Strict(BaseModel):
    """A frozen schema that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def parse_yaml(text: str, *, aliases: bool = True) -> Any:
    """Parse YAML without constructing anything but plain values.

    ``aliases`` False refuses anchors and aliases, with which a small text from elsewhere makes a
    value that fills the memory; tags, with which a text becomes bytes that no check of texts sees;
    and keys that occur twice or are merged in, of which readers take one or the other. Raises
    ValueError, for more text than any description needs too.
    """
    if len(text) > _MAX_YAML_CHARS:
        raise ValueError(f"{len(text):,} characters of YAML, more than {_MAX_YAML_CHARS:,}")
    try:
        _check_events(text, aliases=aliases)
        if not aliases:
            _check_keys(yaml.compose(text, Loader=_LOADER))
        return yaml.load(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {error}") from None


def _check_events(text: str, *, aliases: bool) -> None:
    """Refuse what would exhaust the parser before it is asked to build values: deep nesting, on
    which it recurses, and aliases where they are not wanted."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_YAML_DEPTH:
            raise ValueError(f"YAML nested more than {_MAX_YAML_DEPTH} deep")
        if not aliases and getattr(event, "anchor", None):
            raise ValueError("YAML anchors and aliases are not allowed here")
        tag = getattr(event, "tag", None)
        if tag and not aliases:
            raise ValueError(f"not valid YAML here: tags ({tag[:40]}) are not allowed")


def _check_keys(root: yaml.Node | None) -> None:
    """Refuse keys that occur twice in a mapping, or are merged in."""
    nodes = [root] if root else []
    for node in nodes:
        if isinstance(node, yaml.SequenceNode):
            nodes.extend(node.value)
        if not isinstance(node, yaml.MappingNode):
            continue
        names = Counter((key.tag, key.value) for key, _ in node.value if _is_scalar(key))
        for (tag, name), count in names.items():
            if count > 1 or tag.endswith(":merge"):
                what = "twice; readers would differ" if count > 1 else "to merge, not allowed here"
                raise ValueError(f"YAML names {name[:80]!r} {what}")
        nodes.extend(inner for _, inner in node.value)


def _is_scalar(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode)


def plain_lines(error: ValidationError, where: str) -> str:
    """A pydantic report as lines a person reads: place, field, what is wrong."""
    errors = error.errors()
    parents = {e["loc"][:length] for e in errors for length in range(len(e["loc"]))}
    return "\n".join(
        f"{where}: {'.'.join(map(str, e['loc'])) or 'top level'}: "
        + ("unknown field" if e["type"] == "extra_forbidden" else e["msg"])
        for e in errors
        # a list with a bad item is reported as too short as well
        if e["loc"] not in parents
    )


_MAX_YAML_CHARS = 200_000
_MAX_YAML_DEPTH = 50
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
