"""The checkpoint every reader returns and every layout starts from.

Readers never rename and never permute: a checkpoint shows its file as it is. What names, metadata and
tokenizer files *mean* is read by `requant.architectures` and `requant.tokenizers` when a plan is made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from requant.encodings import Dense, Encoding, PartSpec, Shape
from requant.errors import UnsupportedError
from requant.sources import Source

if TYPE_CHECKING:  # whoever only looks at a header waits for no arrays
    import numpy as np
    from numpy.typing import DTypeLike, NDArray

#: `general.architecture` of a GGUF with what sees or hears, beside that of its text model.
PROJECTOR: Final = "clip"
#: `Checkpoint.architecture` of a folder whose names and row orders are Mistral's own (`consolidated*.safetensors`).
CONSOLIDATED: Final = "consolidated"
#: Files beside config.json that may say how weights are quantized, in the order in which they are believed.
QUANTIZATION_FILES: Final = (
    "quantize_config.json",
    "quant_config.json",
    "hf_quant_config.json",
    "quantization_config.json",
)

#: What the reader of a folder says of an index that does not fit its files.
STALE_INDEX: Final = "does not count"
_SHARD: Final = re.compile(r".*-(\d{5})-of-(\d{5})\.\w+")

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def text_config(config: Mapping[str, Json]) -> Mapping[str, Json]:
    """What config.json says of the text model alone; {} where the model is nothing else.

    Models that can also see or hear have it in a mapping of its own.
    """
    thinker = config.get("thinker_config")
    for place in (config, thinker if isinstance(thinker, dict) else {}):
        for key in ("text_config", "llm_config", "lm_config", "language_config"):
            text = place.get(key)
            if isinstance(text, dict):
                return text
    return {}


def flat_config(config: Mapping[str, Json]) -> dict[str, Json]:
    """config.json with the text model of a multimodal one moved to the top.

    >>> flat_config({"model_type": "mistral3", "text_config": {"model_type": "mistral"}})["model_type"]
    'mistral'
    """
    return {**config, **text_config(config)}


class Naming(Enum):
    """Whose names and row orders a checkpoint's tensors follow."""

    HF = "hf"
    GGML = "ggml"


@dataclass(frozen=True, slots=True)
class Typed:
    """A metadata value with the type it is stored in.

    `kind` is a GGUF value type: `u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 bool str`, in brackets for an array:
    `[str]`, `[[f32]]`. Arrays read from a file are sequences that decode their items when asked; strings
    that are not UTF-8 keep their bytes as surrogate escapes.
    """

    kind: str
    value: bool | int | float | str | Sequence[object]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor is: its name, its logical shape (row-major, slowest dimension first) and how it is stored."""

    name: str
    shape: Shape
    encoding: Encoding

    @property
    def parts(self) -> Mapping[str, PartSpec]:
        """The stored arrays this tensor is made of."""
        return self.encoding.parts(self.shape)

    @property
    def nbytes(self) -> int:
        """Stored size of all parts."""
        return sum(part.nbytes for part in self.parts.values())


@dataclass(frozen=True, slots=True, repr=False)
class Tensor(TensorSpec):
    """A `TensorSpec` whose bytes are somewhere: one source for each part. Nothing is read until `numpy` is called."""

    sources: Mapping[str, Source]

    def __repr__(self) -> str:
        """Name, type and shape: where its parts lie takes several lines."""
        shape = " x ".join(map(str, self.shape)) or "scalar"
        return f"<Tensor {self.name}: {self.encoding.label}, {shape}, {self.nbytes:,} bytes>"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what `numpy` gives; how the tensor is stored is its `encoding`."""
        import numpy as np

        plain = self.encoding.dtype if isinstance(self.encoding, Dense) else None
        return np.dtype(plain.native or np.float32 if plain else np.float32)

    def numpy(self) -> NDArray[Any]:
        """All values, in the tensor's shape: plain numbers as they are where numpy has their type, else as float32.

        Blocks, codes with scales, BF16 and 8-bit floats are decoded. Raises `FormatError` if the file has changed.
        """
        from requant.parts import read_array

        return read_array(self)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """What `np.asarray` calls; the array is always a new one."""
        if copy is False:
            raise ValueError(f"{self.name} lies in a file: there is no array that could be had without a copy")
        values = self.numpy()
        return values if dtype is None else values.astype(dtype, copy=False)


T_co = TypeVar("T_co", bound=TensorSpec, covariant=True)


@dataclass(frozen=True, slots=True, repr=False)
class Checkpoint(Mapping[str, T_co]):
    """A model: `Checkpoint[Tensor]` can be read, `Checkpoint[TensorSpec]` is only described.

    It is also the mapping of its tensors' names, in file order, to its tensors.

    path: what was opened, for messages (empty for a described one).
    notices: what the reader found strange, yet readable: contradictions it settled, damage it could not undo.
    architecture: GGML naming: `general.architecture` ("llama"); HF naming: `model_type` of config.json ("llama");
        empty when the file does not say.
    config: config.json of an HF folder; empty for GGUF, whose key-values are all in `metadata`.
    metadata: GGUF key-values in file order; safetensors `__metadata__` (kind `str`).
    files: what lies beside the weights of an HF folder and goes along untouched (tokenizer files,
        generation_config.json, README, …), by relative name; config.json and weight files are not among them.
    opened: every file that was looked into, as it was then (see `requant.sources.check_unchanged`).
    obstacle: why what the arrays mean is not understood: they may be looked at and copied, and nothing else.
    """

    naming: Naming
    architecture: str
    tensors: tuple[T_co, ...]
    config: Mapping[str, Json] = field(default_factory=dict)
    metadata: Mapping[str, Typed] = field(default_factory=dict)
    files: Mapping[str, Source] = field(default_factory=dict)
    path: Path = Path()
    notices: tuple[str, ...] = ()
    opened: tuple[Source, ...] = field(default=(), compare=False, repr=False)
    obstacle: UnsupportedError | None = field(default=None, compare=False, repr=False)
    _by_name: dict[str, T_co] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __getitem__(self, name: str) -> T_co:
        """The tensor of that name; `KeyError`, with the names most like it, where there is none."""
        if name in self:
            return self._by_name[name]
        from requant.nearest import did_you_mean

        hint = did_you_mean(str(name), self._by_name, "iterate over the checkpoint for the names")
        raise KeyError(f"no tensor is called {name!r}: {hint}")

    def __contains__(self, name: object) -> bool:
        """Whether a tensor is called so."""
        if len(self._by_name) < len(self.tensors):
            self._by_name.update((tensor.name, tensor) for tensor in self.tensors)
        return name in self._by_name

    def __iter__(self) -> Iterator[str]:
        """The names of the tensors."""
        return (tensor.name for tensor in self.tensors)

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self.tensors)

    def __bool__(self) -> bool:
        """True: a vocabulary alone, without tensors, is a model's file all the same."""
        return True

    def _repr_html_(self) -> str:
        from requant.notebook import checkpoint_html

        return checkpoint_html(self)

    def __repr__(self) -> str:
        """What it is, in a line: a vocabulary alone has a million letters."""
        weights = sum(math.prod(tensor.shape) for tensor in self.tensors)
        where = f" {self.path}" if self.path != Path() else ""
        kind = self.architecture or "no model that is named"
        return f"<Checkpoint{where}: {kind}, {len(self.tensors)} tensors, {weights:,} parameters>"

    @property
    def folder(self) -> Path:
        """Where `files` lie: what was opened, or the folder around it. A name does not tell: `Qwen2.5-0.5B`."""
        return self.path.parent if self.path.is_file() else self.path

    @property
    def missing_hint(self) -> str:
        """The next move where a tensor, or a part of one, is missing; "" where nothing says what became of it.

        A folder whose shards or index are incomplete is refused when it is read. What is left is one shard that was
        opened by itself, and an index that names tensors which its files do not have.
        """
        shard = _SHARD.fullmatch(self.path.name) if self.path.is_file() else None
        if shard and int(shard[2]) > 1:
            return f"this file is shard {int(shard[1])} of {int(shard[2])}: open the folder, or its index"
        stale = next((notice for notice in self.notices if STALE_INDEX in notice), None)
        return f"{stale}: if the index is right, fetch the files that it names again" if stale else ""
