"""What is lost or changed on the way, and how it is said: once for all that share a fate, such as thirty layers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from requant.ir import Json, TensorSpec


class LossKind(Enum):
    """What can be lost or changed; every one is shown, and `--fail-on-loss` makes any of them but UNLOADED an error."""

    REQUANTIZED = "requantized"  # rounded a second time: the source was quantized already
    SUBSTITUTED = "type substituted"  # another type than the one asked for
    IMPORTANCE_UNUSED = "importance unused"  # quantized without the importance data that was given
    TENSOR_DROPPED = "tensor dropped"
    METADATA_DROPPED = "metadata dropped"
    TOKENIZER_CHANGED = "tokenizer changed"
    SUSPECT = "suspect input"  # read, but not as its own configuration says, or with damage that cannot be undone
    UNLOADED = "not loaded everywhere"  # stored as asked, but a library that reads the format does not load it so


@dataclass(frozen=True, slots=True)
class Loss:
    """One thing that will not be in the output as it was in the input, or as it was asked for.

    subject: the tensor, key or file. detail: what happens to it, and why. nbytes: what it takes in the source, where it
    is a tensor that is dropped.
    """

    kind: LossKind
    subject: str
    detail: str
    nbytes: int = 0

    @classmethod
    def of_tensor(cls, tensor: TensorSpec, detail: str) -> Loss:
        """A tensor that is dropped."""
        return cls(LossKind.TENSOR_DROPPED, tensor.name, detail, tensor.nbytes)

    def to_json(self) -> Json:
        """As printed by `--json`."""
        return {"kind": self.kind.value, "subject": self.subject, "detail": self.detail, "bytes": self.nbytes}


_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.|$)")
#: What is left out whole: which of its parts there were matters to nobody.
_WHOLE: Final = frozenset({LossKind.TENSOR_DROPPED, LossKind.METADATA_DROPPED})


@dataclass(frozen=True, slots=True)
class LossGroup:
    """Losses of one kind with one reason.

    pattern: their subjects, `*` where they differ. count: how many. nbytes: stored bytes that are left out.
    """

    kind: LossKind
    pattern: str
    detail: str
    count: int
    nbytes: int


def pattern_of(text: str) -> str:
    """A name, or what is said of names, with `*` for the numbers between dots.

    >>> pattern_of("blk.3.attn_q.weight = rope(model.layers.3.self_attn.q_proj.weight)")
    'blk.*.attn_q.weight = rope(model.layers.*.self_attn.q_proj.weight)'
    """
    return _NUMBER.sub("*", text)


def grouped(losses: Iterable[Loss]) -> list[LossGroup]:
    """The losses by kind, pattern and reason, in the order of the first of each.

    Numbers between dots are one pattern. Of what is dropped for one reason, everything below one name is one, too.

    >>> names = [f"vision.layers.{n}.{part}" for n in (0, 1) for part in "qk"]
    >>> dropped = [Loss(LossKind.TENSOR_DROPPED, name, "no place", 10) for name in names]
    >>> [(group.pattern, group.count, group.nbytes) for group in grouped(dropped)]
    [('vision.layers.*.*', 4, 40)]
    """
    found: dict[tuple[LossKind, str, str], dict[str, list[Loss]]] = {}
    for loss in losses:
        pattern = pattern_of(loss.subject)
        root = pattern.partition(".")[0] if loss.kind in _WHOLE and "." in pattern else pattern
        found.setdefault((loss.kind, root, loss.detail), {}).setdefault(pattern, []).append(loss)
    return [_group(kind, detail, patterns) for (kind, _, detail), patterns in found.items()]


def _group(kind: LossKind, detail: str, patterns: dict[str, list[Loss]]) -> LossGroup:
    losses = [loss for group in patterns.values() for loss in group]
    pattern = losses[0].subject if len(losses) == 1 else _common(list(patterns))
    return LossGroup(kind, pattern, detail, len(losses), sum(loss.nbytes for loss in losses))


def _common(patterns: Sequence[str]) -> str:
    """What dotted names begin with, and a `*` for the rest."""
    if len(patterns) == 1:
        return patterns[0]
    shared = []
    for words in zip(*(pattern.split(".") for pattern in patterns), strict=False):
        if len(set(words)) > 1:
            break
        shared.append(words[0])
    return ".".join([*shared, "*"])
