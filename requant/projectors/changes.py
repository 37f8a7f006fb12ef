"""What lies between a projector's tensors in a folder and in a GGUF, beyond what text models have."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from requant.architectures.reordered import by_outputs
from requant.architectures.rules import Rule, Sizes
from requant.errors import PlanError
from requant.expressions import Joined, LogExpLess, Node, Regrouped, Slice, Softplus, reshaped


@dataclass(frozen=True, slots=True)
class FramesFirst:
    """A convolution over space and time: ggml has a convolution over space for each frame, and adds them up."""

    frames: int = 2

    def to_ggml(self, node: Node, sizes: Sizes) -> Node:
        """[out, in, frames, height, width] -> [frames * out * in, height * width]."""
        *channels, _, height, width = node.shape
        kernels = reshaped(node, (prod(channels) * self.frames, height * width))
        return Regrouped(kernels, (prod(channels), self.frames), (1, 0))

    def to_hf(self, node: Node, sizes: Sizes) -> Node:
        """[frames * out * in, height * width], with the rows of HF."""
        return Regrouped(node, (self.frames, node.rows // self.frames), (1, 0))


def frames(hf: str) -> tuple[Rule, ...]:
    """Patches of two frames. hf: name of the convolution's weight."""
    return tuple(
        Rule(
            hf,
            f"v.patch_embd.weight{'.1' if turn else ''}",
            ("embd", "3", "2", "patch", "patch"),
            turn=turn,
            among=("3*embd", "3*embd"),
            changes=(FramesFirst(),),
            flat=("embd", "3", "patch", "patch"),
        )
        for turn in range(2)
    )


@dataclass(frozen=True, slots=True)
class ColoursFirst:
    """A matrix over the pixels of a patch, each with its colours; a convolution has the colours first."""

    def to_ggml(self, node: Node, sizes: Sizes) -> Node:
        """[out, pixels * 3] -> [out * 3 * pixels, 1]."""
        return self._moved(node, (node.columns // 3, 3))

    def to_hf(self, node: Node, sizes: Sizes) -> Node:
        """The inverse; node: [out, 3, height, width]."""
        return self._moved(node, (3, prod(node.shape[-2:])))

    def _moved(self, node: Node, counts: tuple[int, int]) -> Node:
        return Regrouped(reshaped(node, (prod(node.shape), 1)), counts, (1, 0))


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table: the embedding of a token that the text model has, too.

    number: the size that says which.
    """

    number: str

    def to_ggml(self, node: Node, sizes: Sizes) -> Node:
        """[rows, columns] -> [1, columns]."""
        return Slice(node, sizes[self.number], sizes[self.number] + 1)

    def to_hf(self, node: Node, sizes: Sizes) -> Node:
        """The text model brings the table."""
        raise PlanError("a row of the text model's embedding makes no table")


@dataclass(frozen=True, slots=True)
class AxesApart:
    """Rotary pairs of fused q and k that take turns between two axes: ggml has all of one axis, then of the other.

    heads: the size that counts them. The rows of v stay.
    """

    heads: str

    def to_ggml(self, node: Node, sizes: Sizes) -> Node:
        """Each head's numbers as [pairs, axis, 2] -> [axis, pairs, 2]."""
        return self._moved(node, sizes, back=False)

    def to_hf(self, node: Node, sizes: Sizes) -> Node:
        """The inverse."""
        return self._moved(node, sizes, back=True)

    def _moved(self, node: Node, sizes: Sizes, *, back: bool) -> Node:
        heads = sizes[self.heads]

        def rows(of: Node) -> Node:
            width = of.rows // 3
            pairs = width // heads // 4
            counts = (2 * heads, 2, pairs, 2) if back else (2 * heads, pairs, 2, 2)
            turned = Regrouped(Slice(of, 0, 2 * width), counts, (0, 2, 1, 3))
            return Joined((turned, Slice(of, 2 * width, of.rows)))

        return by_outputs(node, node.shape, rows)


@dataclass(frozen=True, slots=True)
class Positive:
    """HF keeps what becomes positive when it is used; ggml has it so (see `Softplus`)."""

    def to_ggml(self, node: Node, sizes: Sizes) -> Node:
        """log(1 + exp(x))."""
        return Softplus(node)

    def to_hf(self, node: Node, sizes: Sizes) -> Node:
        """log(exp(x) - 1)."""
        return LogExpLess(node)
