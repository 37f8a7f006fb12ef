"""What an adapter is, in a few words and numbers, for those who look at its file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Final

from requant.adapters.changes import TrainedTokens, Whole
from requant.adapters.opening import adapter_of
from requant.ir import Checkpoint, Json, Tensor

_LAYER: Final = re.compile(r"^.*?\.\d+\.")


@dataclass(frozen=True, slots=True)
class About:
    """kind: LoRA, rsLoRA or DoRA. targets: roles of the modules that have a product, and how many of each there are.
    scales: what products are multiplied by. saved: tensors that are replaced whole. tokens: rows that are."""

    kind: str
    base: str
    ranks: tuple[int, ...]
    alpha: float | None
    scales: tuple[float, ...]
    targets: Mapping[str, int]
    saved: tuple[str, ...]
    tokens: int
    parameters: int

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        return {
            "kind": self.kind,
            "base": self.base,
            "ranks": list(self.ranks),
            "alpha": self.alpha,
            "scales": list(self.scales),
            "targets": dict(self.targets),
            "saved": list(self.saved),
            "tokens": self.tokens,
            "parameters": self.parameters,
        }


def about(source: Checkpoint[Tensor]) -> About:
    """What kind of adapter it is. Raises as `adapter_of` does for what is not understood."""
    adapter = adapter_of(source)
    targets: dict[str, int] = {}
    for product in adapter.products:
        role = _LAYER.sub("", product.target).removesuffix(".weight")
        targets[role] = targets.get(role, 0) + 1
    config = adapter.config
    kind = "LoRA" if config is None or not config.rslora else "rsLoRA"
    dora = any(product.lengths is not None for product in adapter.products)
    alpha = source.metadata.get("adapter.lora.alpha")
    said = alpha.value if alpha is not None and isinstance(alpha.value, float) else None
    return About(
        f"{kind} with DoRA" if dora else kind,
        adapter.base,
        tuple(sorted({product.rank for product in adapter.products})),
        said if config is None else config.alpha,
        tuple(sorted({product.kinds[0].scale for product in adapter.products})),
        targets,
        tuple(change.target for change in adapter.changes if isinstance(change, Whole)),
        sum(len(change.tokens) for change in adapter.changes if isinstance(change, TrainedTokens)),
        sum(prod(tensor.shape) for tensor in source.tensors),
    )
