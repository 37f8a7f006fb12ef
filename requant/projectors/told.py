"""What a GGUF with a projector in it says of itself, for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from requant.ir import PROJECTOR, Checkpoint, Json, Naming, Tensor
from requant.metadata import as_count

_TOWERS: Final = (("vision", "sees"), ("audio", "hears"))


@dataclass(frozen=True, slots=True)
class Tower:
    """One encoder. sense: sees or hears. numbers: by the names of their keys, without those that the file lacks."""

    sense: str
    kind: str
    numbers: dict[str, int]


@dataclass(frozen=True, slots=True)
class About:
    """A projector. text_width: of the text model that it belongs to; 0 if the file does not say."""

    towers: tuple[Tower, ...]
    text_width: int

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        towers: list[Json] = [{"sense": one.sense, "kind": one.kind, **one.numbers} for one in self.towers]
        return {"towers": towers, "text_width": self.text_width}


_NUMBERS: Final = (
    ("image_size", "image_size"),
    ("patch_size", "patch_size"),
    ("mel_bins", "num_mel_bins"),
    ("layers", "block_count"),
    ("width", "embedding_length"),
    ("heads", "attention.head_count"),
)


def about(checkpoint: Checkpoint[Tensor]) -> About | None:
    """None for what is no projector."""
    if checkpoint.naming is not Naming.GGML or checkpoint.architecture != PROJECTOR:
        return None
    metadata = {key: typed.value for key, typed in checkpoint.metadata.items()}
    towers, text = [], 0
    for name, sense in _TOWERS:
        if metadata.get(f"{PROJECTOR}.has_{name}_encoder") is not True:
            continue
        kinds = (metadata.get(f"{PROJECTOR}.{name}.projector_type"), metadata.get(f"{PROJECTOR}.projector_type"))
        kind = next((one for one in kinds if isinstance(one, str)), "")
        found = {shown: as_count(metadata.get(f"{PROJECTOR}.{name}.{key}")) for shown, key in _NUMBERS}
        towers.append(Tower(sense, kind, {key: number for key, number in found.items() if number}))
        text = as_count(metadata.get(f"{PROJECTOR}.{name}.projection_dim")) or text
    return About(tuple(towers), text)
