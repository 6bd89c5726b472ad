"""What every declarative file shares: strict schemas, safe YAML, errors a person reads."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class Strict(BaseModel):
    """A frozen schema that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def parse_yaml(text: str) -> Any:
    """Parse YAML without constructing anything but plain values; raises ValueError."""
    try:
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


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
