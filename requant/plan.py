"""What will be done, decided before anything is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from requant.encodings import Blocks, Dense, Encoding, Shape
from requant.expressions import Form, Node, Stored
from requant.importance import Importance
from requant.ir import Checkpoint, Json, Tensor, TensorSpec, Typed
from requant.layout import Layout
from requant.losses import Loss
from requant.sources import Source

if TYPE_CHECKING:
    from requant.architectures.model import Model
    from requant.feedback import Corrections, Feedback
    from requant.smoothing import Smoothed


class Fidelity(Enum):
    """What happens to the numbers of a tensor."""

    COPY = "copy"  # the same bytes, perhaps with whole rows in another order
    REPACK = "repack"  # other bytes, the same values
    ROUND = "round"  # values are rounded


@dataclass(frozen=True, slots=True)
class Move:
    """One tensor of the output before its encoding is chosen: its name in the target's naming, and what it is."""

    name: str
    values: Node

    @property
    def shape(self) -> Shape:
        """Its shape in the output."""
        return self.values.shape

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The stored tensors that it is made of."""
        return self.values.leaves()


@dataclass(frozen=True)  # without slots, so that what is asked again and again is found out once
class Step:
    """One tensor's way from files to a file.

    importance: [columns] or [matrices, columns] float32 from an importance matrix, or None.
    corrections: what rounding with error feedback needs, or None. smoothed: columns are multiplied by what divides
    their inputs elsewhere.
    anew: blocks of ggml become other blocks as llama-quantize makes them, by decoding and rounding, even where the
    target could take over their codes (Q5_1 those of Q4_1).
    """

    values: Node
    target: TensorSpec
    importance: NDArray[np.float32] | None = field(default=None, compare=False)
    anew: bool = False
    corrections: Corrections | None = field(default=None, compare=False)
    smoothed: bool = False

    @cached_property
    def inputs(self) -> tuple[Tensor, ...]:
        """The stored tensors that are read."""
        return self.values.leaves()

    @property
    def input_bytes(self) -> int:
        """Bytes of the inputs."""
        return sum(tensor.nbytes for tensor in self.inputs)

    @cached_property
    def sources(self) -> tuple[Encoding, ...]:
        """How the inputs are stored, each encoding once."""
        return tuple(dict.fromkeys(tensor.encoding for tensor in self.inputs))

    @cached_property
    def form(self) -> Form:
        """In which form rows go from the inputs to the output: the strongest that there is."""
        return Form.VALUES if self._decodes_blocks else self.values.forms(self.target.encoding).strongest

    @property
    def is_verbatim(self) -> bool:
        """Whether all bytes of one tensor are written as they are."""
        tensor = self.values.verbatim
        return tensor is not None and tensor.encoding == self.target.encoding

    @cached_property
    def fidelity(self) -> Fidelity:
        """How much survives, as the expression and the target's encoding say."""
        target = self.target.encoding
        moved = self.is_verbatim or self.form in (Form.BYTES, Form.CODES)
        if not self.values.holds(target) or not (moved or isinstance(target, Dense)):
            return Fidelity.ROUND
        return Fidelity.COPY if moved and self.sources == (target,) else Fidelity.REPACK

    @property
    def keeps_codes(self) -> bool:
        """Whether codes and scales are carried over as they are and only what stands beside them is rounded: integer
        zeros, or the scale of a whole tensor (so `fidelity` is ROUND)."""
        return self.form is Form.CODES and self.fidelity is Fidelity.ROUND

    @property
    def _decodes_blocks(self) -> bool:
        """Whether blocks are made anew (see `anew`); those of the target's own type never are."""
        encodings = (*self.sources, self.target.encoding)
        return self.anew and len(set(encodings)) > 1 and all(isinstance(encoding, Blocks) for encoding in encodings)

    @property
    def rounds_twice(self) -> bool:
        """Whether values that a quantizer has rounded already are rounded to other blocks."""
        quantized = any(not isinstance(encoding, Dense) for encoding in self.sources)
        return quantized and not isinstance(self.target.encoding, Dense) and self.fidelity is Fidelity.ROUND

    def to_json(self) -> Json:
        """As printed by `--dry-run --json`."""
        return {
            "from": [tensor.name for tensor in self.inputs],
            "to": self.target.name,
            "values": self.values.explain(),
            "shape": list(self.target.shape),
            "from_types": [encoding.label for encoding in self.sources],
            "to_type": self.target.encoding.label,
            "bytes": self.target.nbytes,
            "fidelity": self.fidelity.value,
            "keeps_codes": self.keeps_codes,
            "rounds_twice": self.rounds_twice,
            "importance": self.importance is not None,
            "feedback": self.corrections is not None,
            "smoothed": self.smoothed,
        }


@dataclass(frozen=True, slots=True)
class Translation:
    """A checkpoint on its way to a plan: what the passes of `requant.passes` hand on, each with more of it decided.

    source: what is read; `architecture`, `config`, `metadata` and `files` are its own until a pass says them in the
    target's words (see `Checkpoint`). model: it as one of its family, once that is known. encodings: one for each
    move, once chosen. importance, feedback, smoothed: by the names of the moves. quantization: what config.json is to
    say of a scheme. hints: what fits the model better than what was asked for. steps, layout: what the plan will be.
    """

    source: Checkpoint[Tensor]
    architecture: str
    moves: tuple[Move, ...]
    config: dict[str, Json] = field(default_factory=dict)
    metadata: dict[str, Typed] = field(default_factory=dict)
    files: dict[str, Source] = field(default_factory=dict)
    losses: tuple[Loss, ...] = ()
    hints: tuple[str, ...] = ()
    model: Model | None = None
    encodings: tuple[Encoding, ...] = ()
    importance: Importance | None = None
    feedback: Feedback | None = None
    smoothed: tuple[Smoothed, ...] = ()
    quantization: Mapping[str, Json] | None = None
    steps: tuple[Step, ...] = ()
    layout: Layout | None = None

    @property
    def known(self) -> Model:
        """The model, which an earlier pass has recognized."""
        assert self.model is not None
        return self.model

    def losing(self, *losses: Loss) -> Translation:
        """The same with these losses, too."""
        return replace(self, losses=(*self.losses, *losses)) if losses else self


def unchanged(source: Checkpoint[Tensor]) -> Translation:
    """The checkpoint in its own naming, with nothing decided."""
    moves = tuple(Move(tensor.name, Stored(tensor)) for tensor in source.tensors)
    return Translation(
        source, source.architecture, moves, dict(source.config), dict(source.metadata), dict(source.files)
    )


@dataclass(frozen=True, slots=True)
class Passed:
    """One pass of planning that was made. name, does: as the pass says of itself. before, after: what it was given, and
    what it made of it."""

    name: str
    does: str
    before: Translation
    after: Translation


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """A conversion as data: print it, compare it, then run it.

    obsolete: files of the model that is replaced, which would be taken for parts of the new one; they are removed
    when the new files have their names. passes: how it was decided. opened: files it was made from, as they were then.
    hints: what fits the model better than what was asked for. expected_kl: the Kullback-Leibler divergence that is
    predicted, in nats per token, where types were chosen by it.
    """

    steps: tuple[Step, ...]
    layout: Layout
    losses: tuple[Loss, ...] = ()
    obsolete: tuple[Path, ...] = ()
    passes: tuple[Passed, ...] = field(default=(), compare=False, repr=False)
    opened: tuple[Source, ...] = field(default=(), compare=False, repr=False)
    hints: tuple[str, ...] = ()
    expected_kl: float | None = None

    def __repr__(self) -> str:
        """What it comes to, in a line: its steps and heads have millions of letters."""
        files = [file.name for file in self.layout.files]
        named = (
            f"{len(files)} files in {self.layout.root}" if len(files) > 1 else str(self.layout.root / "".join(files))
        )
        told = f", {len(self.losses)} losses" if self.losses else ""
        return f"<Plan: {len(self.steps)} tensors, {self.layout.nbytes:,} bytes to {named}{told}>"

    def _repr_html_(self) -> str:
        from requant.notebook import plan_html

        return plan_html(self)

    @property
    def input_bytes(self) -> int:
        """Bytes of tensors that will be read."""
        return sum(step.input_bytes for step in self.steps)

    @property
    def weights(self) -> int:
        """Numbers stored in all tensors of the output."""
        return sum(prod(step.target.shape) for step in self.steps)

    @property
    def bits_per_weight(self) -> float:
        """True bits per weight of the output's tensors, everything stored with them included."""
        return 8 * sum(step.target.nbytes for step in self.steps) / max(1, self.weights)

    @property
    def removed(self) -> tuple[str, ...]:
        """`obsolete` by the names that files of the layout have."""
        return tuple(path.relative_to(self.layout.root).as_posix() for path in self.obsolete)

    def fidelities(self) -> dict[Fidelity, int]:
        """How many tensors are copied, repacked, rounded."""
        counts = dict.fromkeys(Fidelity, 0)
        for step in self.steps:
            counts[step.fidelity] += 1
        return counts

    def fidelities_text(self) -> str:
        """The same in words."""
        words = {Fidelity.COPY: "copied", Fidelity.REPACK: "repacked exactly", Fidelity.ROUND: "rounded"}
        said = [f"{number} {words[fidelity]}" for fidelity, number in self.fidelities().items() if number]
        twice = sum(step.rounds_twice for step in self.steps)
        corrected = sum(step.corrections is not None for step in self.steps)
        more = [f"{twice} of them for the second time"] if twice else []
        more += [f"{corrected} with error feedback"] if corrected else []
        more += [f"{self.smoothed} with inputs smoothed"] if self.smoothed else []
        return ", ".join(said) + (f" ({', '.join(more)})" if more else "")

    @property
    def smoothed(self) -> int:
        """How many tensors are rounded with their columns multiplied, by what divides their inputs elsewhere."""
        return sum(step.smoothed for step in self.steps)

    def rounding_json(self) -> dict[str, Json]:
        """How weights are rounded, where not each to the nearest: "feedback", "smoothed_tensors"."""
        said: dict[str, Json] = {"smoothed_tensors": self.smoothed} if self.smoothed else {}
        corrected = [step.corrections for step in self.steps if step.corrections is not None]
        if corrected:
            from requant.feedback import described

            said["feedback"] = {**described(corrected[0].feedback), "tensors": len(corrected)}
        return said

    def to_json(self) -> dict[str, Json]:
        """As printed by `--dry-run --json`."""
        return {
            "files": [{"name": file.name, "bytes": file.nbytes} for file in self.layout.files],
            "bytes_read": self.input_bytes,
            "bytes_written": self.layout.nbytes,
            "parameters": self.weights,
            "bits_per_weight": round(self.bits_per_weight, 4),
            **({} if self.expected_kl is None else {"expected_kl": self.expected_kl}),
            "fidelity": {fidelity.value: count for fidelity, count in self.fidelities().items()},
            "removed": list(self.removed),
            "losses": [loss.to_json() for loss in self.losses],
            "hints": list(self.hints),
            "steps": [step.to_json() for step in self.steps],
            **self.rounding_json(),
        }
