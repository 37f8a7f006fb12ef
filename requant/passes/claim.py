"""Every tensor and every key of a quantization config is claimed by something that knows what it does to the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from requant.errors import UnsupportedError
from requant.ir import Checkpoint, Naming, Tensor
from requant.passes.passing import Fact
from requant.plan import Loss, LossKind, Translation


@dataclass(frozen=True, slots=True)
class Claim:
    """Everything the source has is known, or planning stops and names it.

    target: the naming of the destination; to say an HF checkpoint in GGML's, one must know what model it is.
    What the reader found strange and yet readable is told.
    """

    name: ClassVar = "claim"
    needs: ClassVar = frozenset[Fact]()
    ensures: ClassVar = frozenset({Fact.CLAIMED})
    target: Naming

    def __call__(self, said: Translation) -> Translation:
        """Raises `UnsupportedError` for what nothing knows."""
        source = said.source
        if source.naming is Naming.HF and self.target is Naming.GGML and not source.config:
            raise _not_a_model(source)
        return said.losing(*(Loss(LossKind.SUSPECT, source.path.name, notice) for notice in source.notices))


def _not_a_model(source: Checkpoint[Tensor]) -> UnsupportedError:
    """The error for tensors of which nobody says what model they make."""
    if "adapter_config.json" in source.files:
        return UnsupportedError(
            f"{source.path} is an adapter (LoRA), to be put on a model, and none itself",
            hint="merge it into its model first (PEFT's merge_and_unload), and convert the result",
        )
    inside = not source.path.is_dir()
    return UnsupportedError(
        f"{source.path} has no config.json, which says what model the tensors make",
        hint="convert the folder that has it, not a file inside" if inside else "fetch config.json into the folder",
    )
