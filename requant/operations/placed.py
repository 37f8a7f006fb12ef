"""Where a tensor belongs in a model: its layer, and what it is there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Final

from requant.ir import Json, Tensor
from requant.sources import FileSlice

if TYPE_CHECKING:
    from requant.inspection.figures import Figures

_BLOCK: Final = re.compile(r"([va]\.blk)\.(\d{1,9})\.")
_LAYER: Final = re.compile(r"(?:^|\.)(\d{1,9})\.")


@dataclass(frozen=True, slots=True)
class Placed:
    """A tensor, the layer it belongs to, if any, and its role: its name without layer and `.weight`."""

    tensor: Tensor
    layer: int | None
    role: str

    def to_json(self, figures: Figures | None = None) -> dict[str, Json]:
        """As printed by `--json`; with what its numbers are like, if they were looked at."""
        tensor = self.tensor
        told: dict[str, Json] = {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "type": tensor.encoding.label,
            "bytes": tensor.nbytes,
            "bits_per_weight": round(8 * tensor.nbytes / max(1, prod(tensor.shape)), 4),
            "layer": self.layer,
            "role": self.role,
            "parts": {
                name: {"file": part.path.name, "offset": part.offset, "bytes": part.nbytes}
                for name, part in tensor.sources.items()
                if isinstance(part, FileSlice)
            },
        }
        return told if figures is None else {**told, "values": figures.to_json()}


def place_of(name: str) -> tuple[int | None, str]:
    """The layer a tensor belongs to, if any, and its role: the name without layer and `.weight`.

    >>> place_of("blk.3.attn_q.weight"), place_of("model.layers.3.mlp.experts.7.up_proj.weight")
    ((3, 'attn_q'), (3, 'mlp.experts.*.up_proj'))
    >>> place_of("model.embed_tokens.weight")
    (None, 'model.embed_tokens')
    """
    match = _LAYER.search(name)
    role = name.removesuffix(".weight")
    if match is None:
        return None, role
    return int(match[1]), re.sub(r"\.\d+\.", ".*.", name[match.end() :].removesuffix(".weight"))


def place_in_projector(name: str) -> tuple[int | None, str]:
    """The same in a projector, whose towers count their layers each by itself.

    >>> place_in_projector("v.blk.3.attn_q.weight"), place_in_projector("mm.0.weight")
    ((3, 'v.blk.*.attn_q'), (None, 'mm.0'))
    """
    match = _BLOCK.match(name)
    role = name.removesuffix(".weight")
    return (None, role) if match is None else (int(match[2]), f"{match[1]}.*.{role[match.end() :]}")
