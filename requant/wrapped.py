"""Names of tensors as trainers leave them: with what was wrapped round the model in every name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from requant.errors import PlanError
from requant.ir import Checkpoint, Tensor

#: What may stand before every name, and who puts it there.
_BEFORE: Final[Mapping[str, str]] = {
    "module.": "torch's DataParallel",
    "base_model.model.": "PEFT",
    "_orig_mod.": "torch.compile",
    "_forward_module.": "Lightning Fabric",
}
#: What no module of a model is called: it may stand within some names, too.
_WITHIN: Final[Mapping[str, str]] = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "torch's FSDP",
    "_checkpoint_wrapped_module.": "torch's activation checkpointing",
}
#: Tensors of an adapter that has not been merged: the names without the wrapper would promise a whole model.
_ADAPTER: Final = re.compile(r"\.(lora_\w+|base_layer|modules_to_save)\.")


def wrappers_of(names: Sequence[str]) -> dict[str, str]:
    """What is wrapped round all of the names or stands within some, and who has put it there.

    >>> wrappers_of(["module.lm_head.weight", "module._orig_mod.norm.weight"])
    {'module.': "torch's DataParallel", '_orig_mod.': 'torch.compile'}
    """
    found: dict[str, str] = {}
    if not names or _ADAPTER.search("\n".join(names)):
        return found
    while True:
        prefix = next((prefix for prefix in _BEFORE if all(name.startswith(prefix) for name in names)), None)
        if prefix is None:
            break
        found[prefix] = _BEFORE[prefix]
        names = [name.removeprefix(prefix) for name in names]
    text = "\n".join(["", *names])  # one search instead of one for each of thousands
    return found | {part: who for part, who in _WITHIN.items() if f"\n{part}" in text or f".{part}" in text}


def unwrapped(checkpoint: Checkpoint[Tensor]) -> tuple[Checkpoint[Tensor], dict[str, str]]:
    """The checkpoint under the names that the model gives its tensors, and what was taken off them.

    Raises `PlanError` where two tensors would have one name.
    """
    found = wrappers_of([tensor.name for tensor in checkpoint.tensors])
    if not found:
        return checkpoint, found
    tensors: dict[str, Tensor] = {}
    for tensor in checkpoint.tensors:
        name = _bare(tensor.name, found)
        if name in tensors:
            raise PlanError(f"tensors {tensors[name].name!r} and {tensor.name!r} are both {name!r} without {[*found]}")
        tensors[name] = tensor
    bare = tuple(replace(tensor, name=name) for name, tensor in tensors.items())
    return replace(checkpoint, tensors=bare), found


def _bare(name: str, found: Mapping[str, str]) -> str:
    while prefix := next((prefix for prefix in found if prefix in _BEFORE and name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    for part in _WITHIN:
        name = name.removeprefix(part).replace(f".{part}", ".")
    return name
