"""A module of transformers as a checkpoint, so that it can be planned and converted like a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import torch

from requant.encodings import DENSE, Dense
from requant.errors import PlanError, UnsupportedError
from requant.ir import Checkpoint, Json, Naming, Tensor
from requant.sources import Bytes, Source

_DTYPES: Final = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
#: Where torch keeps what a parametrization computes a parameter from.
_ORIGINAL: Final = re.compile(r"parametrizations\.(\w+)\.original$", re.ASCII)


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """The bytes of a tensor of torch, as they are when they are read.

    token: nothing else has it, so that no later process goes on with what was begun of these bytes.
    """

    _tensor: torch.Tensor
    token: str = field(default_factory=lambda: uuid4().hex)

    @property
    def nbytes(self) -> int:
        """Of all its numbers."""
        return self._tensor.numel() * self._tensor.element_size()

    def read_into(self, start: int, out: Bytes) -> None:
        """Copy, from wherever it lies."""
        flat = self._tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        out[...] = flat[start : start + out.size].cpu().numpy()


def checkpoint(module: torch.nn.Module, folder: Path | str | None = None) -> Checkpoint[Tensor]:
    """What `module.save_pretrained` would write, to be planned and converted without being written.

    Tensors are read from the module when they are needed; tied ones are there once. Of a parameter that is
    parametrized (see `fake_quantize`) it is what is trained. folder: from where the tokenizer and other files come.

    Raises `UnsupportedError` for a module that has no configuration of transformers.
    """
    tensors = tuple(_tensor(name, value) for name, value in _weights(module))
    config = config_of(module)
    files: dict[str, Source] = {}
    if folder is not None:
        from requant import formats

        files = dict(formats.open(Path(folder)).files)
    return Checkpoint(Naming.HF, str(config["model_type"]), tensors, config, {}, files)


def config_of(module: torch.nn.Module) -> dict[str, Json]:
    """config.json of a module, as `save_pretrained` writes it."""
    config: Any = getattr(module, "config", None)
    if not hasattr(config, "to_json_string") or not getattr(config, "model_type", ""):
        raise UnsupportedError(
            f"{type(module).__name__} has no configuration of transformers, which says what model it is",
            hint="register requant.torch.FakeQuantized for single parameters, with the encoding that you choose",
        )
    said: dict[str, Json] = json.loads(config.to_json_string())
    dtype = str(getattr(module, "dtype", torch.float32)).removeprefix("torch.")
    return {**said, "model_type": config.model_type, "architectures": [type(module).__name__], "dtype": dtype}


def own_name(name: str) -> str:
    """The name of a parameter, whether it is parametrized or not.

    >>> own_name("lm_head.parametrizations.weight.original")
    'lm_head.weight'
    """
    return _ORIGINAL.sub(r"\1", name)


def _weights(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, each once, and the buffers that are saved."""
    kept = module.state_dict(keep_vars=True)
    seen: set[int] = set()
    for name, value in kept.items():
        if isinstance(value, torch.Tensor) and id(value) not in seen:
            seen.add(id(value))
            yield own_name(name), value


def _tensor(name: str, value: torch.Tensor) -> Tensor:
    if value.device.type == "meta":
        raise PlanError(f"{name} has no values: it is on the device 'meta'", hint="load the weights first")
    return Tensor(name, tuple(value.shape), _encoding(name, value), {"data": Weight(value)})


def _encoding(name: str, value: torch.Tensor) -> Dense:
    if value.dtype not in _DTYPES:
        raise UnsupportedError(f"{name} is {value.dtype}, which is no type of plain numbers that are trained")
    return DENSE[_DTYPES[value.dtype]]
