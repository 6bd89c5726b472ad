"""What every declarative file shares: strict schemas, safe YAML, errors a person reads."""

from __future__ import annotations

import re
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class Strict(BaseModel):
    """A frozen schema that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def parse_yaml(text: str, *, aliases: bool = True) -> Any:
    """Parse YAML without constructing anything but plain values.

    ``aliases`` False refuses anchors and aliases, with which a small text from elsewhere makes a
    value that fills the memory. Raises ValueError, for more than a megabyte of text too.
    """
    if len(text) > _MAX_YAML_CHARS:
        raise ValueError(f"{len(text):,} characters of YAML, more than {_MAX_YAML_CHARS:,}")
    try:
        # a scan in full only where there may be one: it costs as much as parsing
        if not aliases and _MAYBE_ALIAS.search(text):
            tokens = (yaml.AnchorToken, yaml.AliasToken)
            if any(isinstance(token, tokens) for token in yaml.scan(text, Loader=_LOADER)):
                raise ValueError("YAML anchors and aliases are not allowed here")
        return yaml.load(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {error}") from None


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


_MAX_YAML_CHARS = 1_000_000
_MAYBE_ALIAS = re.compile(r"[&*]\w")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
