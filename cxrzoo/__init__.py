"""cxrzoo: chest-X-ray encoders, one per pretraining strategy, and a harness to compare them.

Everything here is imported on first use, so that ``import cxrzoo`` stays instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Encoder": "cxrzoo.zoo.encoder",
    "InputContract": "cxrzoo.zoo.card",
    "Record": "cxrzoo.evaluation.record",
    "Table": "cxrzoo.data.table",
    "evaluate": "cxrzoo.evaluation.sweep",
    "list_benchmarks": "cxrzoo.data.benchmark",
    "list_encoders": "cxrzoo.zoo.registry",
    "load": "cxrzoo.zoo.encoder",
    "open_benchmark": "cxrzoo.data.table",
    "read_records": "cxrzoo.evaluation.record",
    "table": "cxrzoo.report.tables",
}

if TYPE_CHECKING:
    from cxrzoo.data.benchmark import list_benchmarks
    from cxrzoo.data.table import Table, open_benchmark
    from cxrzoo.evaluation.record import Record, read_records
    from cxrzoo.evaluation.sweep import evaluate
    from cxrzoo.report.tables import table
    from cxrzoo.zoo.card import InputContract
    from cxrzoo.zoo.encoder import Encoder, load
    from cxrzoo.zoo.registry import list_encoders

__all__ = [
    "Encoder",
    "InputContract",
    "Record",
    "Table",
    "__version__",
    "evaluate",
    "list_benchmarks",
    "list_encoders",
    "load",
    "open_benchmark",
    "read_records",
    "table",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'cxrzoo' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
