"""What is known of a checkpoint while it is said in the other naming."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from requant.architectures.rules import Config, Family, Flags, Sizes
from requant.ir import Tensor


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint as one of its family, as far as it has been looked at.

    unknown_class: the class that config.json names, if nobody knows it and only its model type is known. headless: it
    has no output head of its own. tensors: by the names that the family's table has for them. base: the prefix of the
    HF names. vocabulary: rows of the embedding. settings: hyperparameters, in words of config.json, or by GGUF keys
    without the architecture. layers: the sizes of each, where they differ. keys: GGUF keys, without the architecture,
    that config.json says. used: names of tensors that have found their place.
    """

    family: Family
    unknown_class: str = ""
    headless: bool = False
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    base: str = ""
    vocabulary: int = 0
    settings: Config = field(default_factory=dict)
    sizes: Sizes = field(default_factory=dict)
    layers: Sequence[Sizes] = ()
    flags: Flags = field(default_factory=dict)
    keys: frozenset[str] = frozenset()
    used: frozenset[str] = frozenset()
