"""Read, plan, convert and verify language-model checkpoints.

>>> import requant
>>> sorted(requant.FORMATS)
['gguf', 'safetensors', 'torch']

`checkpoint = requant.open("model.gguf")` describes a model without reading a tensor, and
`checkpoint["token_embd.weight"].numpy()` reads one. `plan = requant.plan_conversion(checkpoint, "safetensors",
"folder", requant.Request("BF16"))` decides everything, and `requant.execute(plan)` does it. See docs/library.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

#: Said here, where pyproject.toml has it from: to ask the package's metadata for it takes as long as half a plan.
__version__: Final = "0.1.0"

if TYPE_CHECKING:
    from requant.errors import Error
    from requant.execution import Options, Receipt, execute
    from requant.formats import FORMATS
    from requant.ir import Checkpoint, Tensor
    from requant.opening import open
    from requant.operations.convert import Request, plan_conversion
    from requant.operations.requantize import plan_requantization
    from requant.plan import Plan

#: Public name -> the module that has it, imported when the name is used.
_HOMES: Final = {
    "FORMATS": "requant.formats",
    "open": "requant.opening",
    "Checkpoint": "requant.ir",
    "Error": "requant.errors",
    "Tensor": "requant.ir",
    "Plan": "requant.plan",
    "Request": "requant.operations.convert",
    "plan_conversion": "requant.operations.convert",
    "plan_requantization": "requant.operations.requantize",
    "Options": "requant.execution",
    "Receipt": "requant.execution",
    "execute": "requant.execution",
}

__all__ = [
    "FORMATS",
    "Checkpoint",
    "Error",
    "Options",
    "Plan",
    "Receipt",
    "Request",
    "Tensor",
    "execute",
    "open",
    "plan_conversion",
    "plan_requantization",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> object:
    """Names are looked up in their modules: `import requant` alone costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'requant' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
