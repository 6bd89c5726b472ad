"""Checkpoints of a training as safetensors: atomic, and the last two are kept.

Tensors of nested states are stored under their paths, numbers and texts as JSON beside them; no
pickle is written or read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as serialise
from torch import Tensor

from cxrzoo.errors import StorageError, storage_errors
from cxrzoo.files import write_atomically
from cxrzoo.zoo.weights import check_header

KEPT = 2
_SEPARATOR = "\x1f"
_STATE = "__state__"


def write_checkpoint(directory: Path, step: int, state: dict[str, Any]) -> Path:
    """Write ``state``, of dicts, lists, tensors, numbers and texts, as the checkpoint of ``step``.

    Raises:
        StorageError: the disk is full; the checkpoints there are stay.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _take_tensors(state, "", tensors)
    content = serialise(
        # cloned, because safetensors refuses tensors that share memory
        {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()},
        {_STATE: json.dumps(skeleton)},
    )
    path = directory / f"step-{step:09d}.safetensors"
    with storage_errors(path, "the checkpoint"):
        write_atomically(path, content)
    for old in sorted(directory.glob("step-*.safetensors"))[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def read_last_checkpoint(directory: Path) -> dict[str, Any] | None:
    """The state of the last whole checkpoint; None where there is none.

    Raises:
        StorageError: a checkpoint cannot be read at all.
    """
    for path in sorted(directory.glob("step-*.safetensors"), reverse=True):
        try:
            content = path.read_bytes()
            check_header(content)
            length = int.from_bytes(content[:8], "little")
            skeleton = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_STATE])
            state: dict[str, Any] = _put_tensors(skeleton, "", parse(content))
            return state
        except OSError as error:
            raise StorageError(
                f"{path}: the checkpoint cannot be read ({error.strerror})"
            ) from None
        except (ValueError, KeyError, SafetensorError):
            continue  # cut short by a crash of the machine: the one before is whole
    return None


def _take_tensors(node: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """``node`` with None in place of each tensor, which goes into ``tensors`` under its path."""
    if isinstance(node, Tensor):
        tensors[path] = node
        return {"tensor": None}
    if isinstance(node, dict):
        items = [
            [key, _take_tensors(value, f"{path}{_SEPARATOR}{key}", tensors)]
            for key, value in node.items()
        ]
        return {"dict": items}
    if isinstance(node, list | tuple):
        inner = [_take_tensors(v, f"{path}{_SEPARATOR}{n}", tensors) for n, v in enumerate(node)]
        return {"list": inner}
    return {"plain": node}


def _put_tensors(node: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    ((kind, value),) = node.items()
    if kind == "tensor":
        return tensors[path]
    if kind == "dict":
        return {k: _put_tensors(v, f"{path}{_SEPARATOR}{k}", tensors) for k, v in value}
    if kind == "list":
        return [_put_tensors(v, f"{path}{_SEPARATOR}{n}", tensors) for n, v in enumerate(value)]
    return value
