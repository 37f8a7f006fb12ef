"""The arrays of a checkpoint while folds take them out and put tensors in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from requant.encodings import Dense, Shape
from requant.errors import FormatError, PlanError
from requant.formats.stored import NamesParts
from requant.ir import QUANTIZATION_FILES, Checkpoint, Json, Tensor, TensorSpec, text_config
from requant.json_values import CONFIG, parse_json
from requant.printable import shorten
from requant.sources import Source, read


class Pool:
    """Stored arrays by name; whatever is left at the end is a tensor of its own.

    configurations: every quantization config, after where it lies. quantization: the one that counts, {} if there is
    none. missing: the hint where a part is missing. notices: what folds found strange (`Checkpoint.notices`); they
    append to it.
    """

    def __init__(self, checkpoint: Checkpoint[Tensor]) -> None:
        self._checkpoint = checkpoint
        self._arrays = {tensor.name: tensor for tensor in checkpoint.tensors}
        self._places = {tensor.name: place for place, tensor in enumerate(checkpoint.tensors)}
        self.path: Path = checkpoint.path
        self.config: Mapping[str, Json] = checkpoint.config
        self.metadata = checkpoint.metadata
        self.notices: list[str] = []
        self.missing = checkpoint.missing_hint
        self._remarks: dict[str, list[str]] = {}
        self.configurations = _configurations(checkpoint)
        self.quantization: Mapping[str, Json] = next((config for _, config in self.configurations), {})

    def names(self) -> list[str]:
        """Everything that is here, in file order."""
        return list(self._arrays)

    def modules(self, suffix: str) -> list[str]:
        """Modules that store an array `<module>.<suffix>`, in file order."""
        ending = "." + suffix
        return [name.removesuffix(ending) for name in self._arrays if name.endswith(ending)]

    def ending(self, suffix: str) -> list[str]:
        """Arrays whose names end so, in file order."""
        return [name for name in self._arrays if name.endswith(suffix)]

    def get(self, name: str) -> Tensor | None:
        """An array that is still here."""
        return self._arrays.get(name)

    def need(self, module: str, suffix: str) -> Tensor:
        """The array `<module>.<suffix>`, without which the module is broken."""
        array = self._arrays.get(f"{module}.{suffix}")
        if array is None:
            raise FormatError(self.path, f"module {module!r} has no {suffix!r}", hint=self.missing)
        return array

    def need_part(self, tensor: str, part: str) -> Tensor:
        """The array `<tensor>_<part>`, without which the tensor is broken."""
        array = self._arrays.get(f"{tensor}_{part}")
        if array is None:
            raise FormatError(self.path, f"{tensor!r} has no '{tensor}_{part}'", hint=self.missing)
        return array

    def assemble(self, spec: TensorSpec) -> None:
        """Fold the arrays that `spec.encoding` names into one tensor; each must be there, of its dtype and shape.

        Dimensions of 1 count for nothing: one scale is stored as [] or [1], scales of rows as [rows] or [rows, 1].
        """
        encoding = spec.encoding
        assert isinstance(encoding, NamesParts)
        names = encoding.stored_names(spec.name)
        try:
            parts = spec.parts
        except PlanError as error:
            raise FormatError(self.path, f"{spec.name!r}: {error}") from None
        sources = {}
        for part, wanted in parts.items():
            array = self._arrays.get(names[part])
            if array is None:
                raise FormatError(self.path, f"{spec.name!r} lacks {names[part]!r}", hint=self.missing)
            found = array.parts["data"] if isinstance(array.encoding, Dense) else None
            if found is None or found.dtype != wanted.dtype or not _alike(found.shape, wanted.shape):
                stored = "taken already" if found is None else f"{found.dtype.label}{list(found.shape)}"
                raise FormatError(
                    self.path,
                    f"{names[part]!r} is {stored}; {encoding.label} of {list(spec.shape)} needs "
                    f"{wanted.dtype.label}{list(wanted.shape)}",
                )
            sources[part] = array.sources["data"]
        self.fold(Tensor(spec.name, spec.shape, encoding, sources), [names[part] for part in sources])

    def fold(self, tensor: Tensor, taken: list[str]) -> None:
        """Put `tensor` where the first of the `taken` arrays stood, and take them out."""
        self._places[tensor.name] = min(self._places[name] for name in taken)
        for name in taken:
            del self._arrays[name]
        self._arrays[tensor.name] = tensor

    def drop(self, name: str) -> None:
        """Take an array out for good; a remark says why."""
        del self._arrays[name]

    def remark(self, tensor: str, detail: str) -> None:
        """A notice about one tensor; what is said of many becomes one notice."""
        self._remarks.setdefault(detail, []).append(tensor)

    def checkpoint(self) -> Checkpoint[Tensor]:
        """The checkpoint with what is in the pool now."""
        ordered = sorted(self._arrays.values(), key=lambda tensor: self._places[tensor.name])
        remarks = [
            f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {detail}"
            for detail, names in self._remarks.items()
        ]
        notices = (*self._checkpoint.notices, *self.notices, *remarks)
        return replace(self._checkpoint, tensors=tuple(ordered), config=self.config, notices=notices)


def _alike(one: Shape, other: Shape) -> bool:
    return [size for size in one if size != 1] == [size for size in other if size != 1]


def _configurations(checkpoint: Checkpoint[Tensor]) -> list[tuple[str, Mapping[str, Json]]]:
    """Every quantization config and where it lies, in the order in which they are believed; none of them is empty."""
    found = list[tuple[str, Json]]()
    for config, inside in ((checkpoint.config, ""), (text_config(checkpoint.config), "text_config.")):
        for key in ("quantization_config", "compression_config"):
            found.append((f"{inside}{key} of config.json", config.get(key)))
    for name in QUANTIZATION_FILES:
        source = checkpoint.files.get(name)
        if source is not None:
            found.append((name, _read_json(checkpoint.path / name, source)))
    mlx = checkpoint.config.get("quantization")
    found.append(("quantization of config.json", mlx if isinstance(mlx, dict) else None))
    for place, value in found:
        if value is not None and not isinstance(value, dict):
            raise FormatError(checkpoint.path, f"{place} is {shorten(value)}, not an object")
    return [(place, value) for place, value in found if isinstance(value, dict) and value]


def _read_json(path: Path, source: Source) -> Json:
    return parse_json(read(source, 0, min(source.nbytes, CONFIG.nbytes + 1)).tobytes(), path).value
