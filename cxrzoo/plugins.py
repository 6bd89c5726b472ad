"""Encoders and benchmarks that other packages bring through entry points.

A broken plugin warns with its package's name and never breaks the rest; a name that the
package itself uses cannot be taken.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path


def with_plugins(
    builtin: dict[str, Path], group: str, entries_of: Callable[[Path], dict[str, Path]]
) -> dict[str, Path]:
    """``builtin`` and what entry points of ``group`` add to it, by name.

    An entry point is a folder, as a path or a callable that returns one; ``entries_of`` lists
    what a folder holds, and raises when any of it is malformed.
    """
    found = dict(builtin)
    for entry in entry_points(group=group):
        package = entry.dist.name if entry.dist else "unknown"
        try:
            target = entry.load()
            folder = Path(target() if callable(target) else target)
            added = entries_of(folder)
            if not added:
                raise FileNotFoundError(f"there is nothing in {folder}")
        except Exception as error:  # a plugin may fail in any way
            warnings.warn(f"{group} of package '{package}' are left out: {error}", stacklevel=3)
            continue
        for name, path in sorted(added.items()):
            if name in found:
                warnings.warn(f"package '{package}' may not replace '{name}'", stacklevel=3)
            else:
                found[name] = path
    return found
