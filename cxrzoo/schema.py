"""What every declarative file shares: strict schemas, safe YAML, errors a person reads."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class Strict(BaseModel):
    """A frozen schema that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def parse_yaml(text: str, *, aliases: bool = True) -> Any:
    """Parse YAML without constructing anything but plain values.

    ``aliases`` False refuses anchors and aliases, with which a small text from elsewhere makes a
    value that fills the memory. Raises ValueError, for more text than any description needs too.
    """
    if len(text) > _MAX_YAML_CHARS:
        raise ValueError(f"{len(text):,} characters of YAML, more than {_MAX_YAML_CHARS:,}")
    try:
        _check_events(text, aliases=aliases)
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


def plain_lines(error: ValidationError, where: str) -> str:
    """A pydantic report as lines a person reads: place, field, what is wrong."""
    places = [e["loc"] for e in error.errors()]
    return "\n".join(
        f"{where}: {'.'.join(map(str, e['loc'])) or 'top level'}: "
        + ("unknown field" if e["type"] == "extra_forbidden" else e["msg"])
        for e in error.errors()
        # a list with a bad item is reported as too short as well
        if not any(len(p) > len(e["loc"]) and p[: len(e["loc"])] == e["loc"] for p in places)
    )


_MAX_YAML_CHARS = 200_000
_MAX_YAML_DEPTH = 50
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
