"""What a file or a folder that was opened is: an adapter of one kind or the other, or none."""

from __future__ import annotations

from requant.adapters.changes import Adapter
from requant.adapters.ggml import ggml_adapter
from requant.adapters.peft import peft_adapter
from requant.adapters.recognized import is_ggml_adapter
from requant.errors import PlanError
from requant.ir import Checkpoint, Naming, Tensor


def adapter_of(source: Checkpoint[Tensor]) -> Adapter:
    """Read what an adapter changes; raises `PlanError` for what is none."""
    if is_ggml_adapter(source):
        return ggml_adapter(source)
    if source.naming is Naming.GGML:
        raise PlanError(f"{source.path} is no adapter: general.type does not say so", hint="a merge takes two models")
    return peft_adapter(source)
