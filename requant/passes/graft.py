"""Tensors that are computed stand in for tensors that are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Final

from requant.encodings import Encoding
from requant.expressions import Node, Stored
from requant.ir import Tensor
from requant.passes.passing import Fact, Pass
from requant.plan import Translation
from requant.sources import FileSlice

#: Where stand-ins say that they lie; there is no such file.
_NOWHERE: Final = Path("(computed)")


def named_by(destination: Path) -> Path:
    """What a model that is yet to be made is called by: its destination without the ending of a file.

    The file itself, which may be there already, is no folder that names a model.
    """
    return destination.with_suffix("") if destination.suffix.lower() in (".gguf", ".safetensors") else destination


def stand_in(name: str, values: Node, encoding: Encoding) -> Tensor:
    """A tensor that planning takes for a stored one, until `Graft` puts `values` in its place."""
    parts = encoding.parts(values.shape)
    sources = {part: FileSlice(_NOWHERE / name, 0, about.nbytes) for part, about in parts.items()}
    return Tensor(name, values.shape, encoding, sources)


def is_stand_in(tensor: Tensor) -> bool:
    """Whether there are no such bytes."""
    return any(isinstance(one, FileSlice) and _NOWHERE in one.path.parents for one in tensor.sources.values())


def origin_of(tensor: Tensor) -> str:
    """The name of the stand-in that a tensor is, or was cut from; its own where it is none."""
    slices = [source for source in tensor.sources.values() if isinstance(source, FileSlice)]
    if not slices or _NOWHERE not in slices[0].path.parents:
        return tensor.name
    return slices[0].path.relative_to(_NOWHERE).as_posix()


@dataclass(frozen=True, slots=True)
class Graft:
    """Stand-ins give way to what computes them.

    values: by the names of the stand-ins. Of a stand-in that a pass has cut, the same rows are taken.
    """

    name: ClassVar = "merge"
    needs: ClassVar = frozenset({Fact.NAMED})
    ensures: ClassVar = frozenset[Fact]()
    values: Mapping[str, Node] = field(compare=False)

    def __call__(self, said: Translation) -> Translation:
        """Every tensor keeps its name and its shape."""
        moves = tuple(replace(move, values=move.values.grafted(self.node_of)) for move in said.moves)
        return replace(said, moves=moves)

    def node_of(self, tensor: Tensor) -> Node:
        """What computes a stand-in; a stored tensor is what it is."""
        slices = [source for source in tensor.sources.values() if isinstance(source, FileSlice)]
        if not slices or _NOWHERE not in slices[0].path.parents:
            return Stored(tensor)
        node = self.values[origin_of(tensor)]
        if tensor.shape == node.shape:
            return node
        from requant.expressions import reshaped

        whole = stand_in("", node, tensor.encoding)
        part, cut = next((name, source) for name, source in tensor.sources.items() if isinstance(source, FileSlice))
        width = whole.sources[part].nbytes // max(node.rows, 1)
        start = cut.offset // max(width, 1)
        return reshaped(node.section(start, start + cut.nbytes // max(width, 1)), tensor.shape)


def with_graft(passes: Sequence[Pass], values: Mapping[str, Node]) -> list[Pass]:
    """The passes of a conversion with one more: before the first that looks at values, or makes steps of them."""
    names = [one.name for one in passes]
    measures = any(getattr(one, "scheme", None) is not None for one in passes)
    first = next(n for n, name in enumerate(names) if name in ("smoothing", "steps"))
    at = names.index("names") + 1 if measures else first
    return [*passes[:at], Graft(values), *passes[at:]]
