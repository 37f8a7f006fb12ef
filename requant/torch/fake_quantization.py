"""Quantization-aware training: the parameters of a model are seen as a conversion would store them.

Which parameter gets which encoding is decided by the plan of that conversion, so that a mixture such as Q4_K_M is the
same here and there; and what a parameter is stored as is computed by the codecs that write the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils import parametrize

from requant.calibration.skeleton import fill
from requant.encodings import F32, Dense, Shape
from requant.errors import PlanError, UnsupportedError
from requant.expressions import Node, Stored
from requant.formats import format_named
from requant.ir import Checkpoint, Naming, Tensor
from requant.operations.convert import Request, plan_conversion
from requant.passes.graft import origin_of, stand_in
from requant.plan import Fidelity, Step
from requant.sources import FileSlice, Memory
from requant.torch.modules import checkpoint, own_name
from requant.torch.rounding import FakeQuantized, Piece

#: Numbers below this are exact in float32.
_EXACT: Final = 1 << 24


def fake_quantize(
    module: torch.nn.Module, recipe: str | Request, target: Literal["gguf", "safetensors"] = "gguf"
) -> dict[str, str]:
    """Have the parameters of `module` seen as a conversion would store them, while they are trained as they are.

    module: a model of transformers. recipe: as for `--to` ("Q4_K_M", "NVFP4"; "GPTQ-4-128", "FP8", "NF4" with target
    "safetensors"), or a `requant.Request`, which may bring types for single tensors and an importance matrix. Returns
    what each parameter that is rounded is stored as, by name; those left alone are not in it.

    After training, `remove_fake_quantization` leaves the trained numbers, which are saved in the dtype they were
    trained in; converted by the same request they are stored as training saw them. (What training saw is not saved
    instead: most encoders, given what they have stored, store something else.)

    Raises `PlanError` and `UnsupportedError` for what cannot be converted, for a recipe that measures weights to choose
    (EXL2), and for a parameter of which what is stored is not a part in another order.
    """
    request = recipe if isinstance(recipe, Request) else Request(recipe)
    _check(module, request, target)
    model = _described(checkpoint(module))
    if target == "gguf":
        request = replace(request, vocabulary=False)
    plan = plan_conversion(model, target, Path("trained.gguf" if target == "gguf" else "trained"), request)
    parameters, pieces = _Parameters.of(model), dict[str, list[Piece]]()
    for step in plan.steps:
        for name, piece in parameters.pieces(step):
            pieces.setdefault(name, []).append(piece)
    _register(module, pieces)
    return {name: "+".join(dict.fromkeys(one.target.encoding.label for one in own)) for name, own in pieces.items()}


def remove_fake_quantization(module: torch.nn.Module) -> None:
    """Leave the parameters as they were trained, to be saved or converted."""
    for _, owner in list(module.named_modules()):
        for name in list(getattr(owner, "parametrizations", {})):
            if any(isinstance(one, FakeQuantized) for one in owner.parametrizations[name]):
                parametrize.remove_parametrizations(owner, name, leave_parametrized=False)


def _described(model: Checkpoint[Tensor]) -> Checkpoint[Tensor]:
    """Without values, but with places: what a plan cuts out of a parameter says where it lay."""
    return replace(model, tensors=tuple(stand_in(one.name, Stored(one), one.encoding) for one in model.tensors))


def _check(module: torch.nn.Module, request: Request, target: str) -> None:
    if format_named(target).naming is Naming.HF and request.recipe is not None:
        from requant.schemes import scheme_named

        scheme = scheme_named(request.recipe)
        if scheme is not None and scheme.measures:
            raise PlanError(
                f"{request.recipe} chooses types by measuring weights, which training changes",
                hint="choose a recipe whose types follow from names and shapes",
            )
    found = [name for name, one in module.named_modules() if isinstance(one, FakeQuantized)]
    if found:
        raise PlanError(
            f"{own_name(found[0])} is fake-quantized already", hint="requant.torch.remove_fake_quantization(module)"
        )


def _register(module: torch.nn.Module, pieces: Mapping[str, list[Piece]]) -> None:
    """The same parametrization wherever a parameter is: a head that is tied to the embedding is stored with it."""
    every = list(module.named_parameters(remove_duplicate=False))
    by_name = dict(every)
    for name, own in pieces.items():
        parametrization = FakeQuantized(name=name, pieces=own)
        for place in [other for other, parameter in every if parameter is by_name.get(name)]:
            owner, _, attribute = place.rpartition(".")
            parametrize.register_parametrization(module.get_submodule(owner), attribute, parametrization, unsafe=True)


# What is stored of a parameter, and where in it that lies


@dataclass(frozen=True, slots=True)
class _Parameters:
    """The parameters of a model, whose values are all counted on.

    shapes: by name. starts: the number of the first value of each.
    """

    shapes: Mapping[str, Shape]
    starts: Mapping[str, int]

    @classmethod
    def of(cls, model: Checkpoint[Tensor]) -> _Parameters:
        """In the checkpoint's order."""
        shapes = {tensor.name: tensor.shape for tensor in model.tensors}
        return cls(shapes, dict(zip(shapes, accumulate(map(prod, shapes.values()), initial=0), strict=False)))

    def pieces(self, step: Step) -> Iterator[tuple[str, Piece]]:
        """The parameters that a step rounds, and what it stores of each."""
        if step.fidelity is not Fidelity.ROUND:
            return
        tensor, rows = step.values.verbatim, step.values.rows
        if tensor is not None and prod(tensor.shape) == prod(self.shapes[origin_of(tensor)]):
            yield origin_of(tensor), Piece(step.target, 0, rows, step.importance)
            return
        if not step.values.holds(F32):
            if isinstance(step.target.encoding, Dense):
                return  # norms plus one, and the like: plain numbers, of which training sees what they are made of
            raise UnsupportedError(
                f"{step.target.name} is computed ({step.values.explain()}): what is stored is not what is trained",
                hint="keep it plain: requant.Request(..., overrides=Overrides(tensor_types=...))",
            )
        numbers = self.numbers(step.values)
        names, starts = list(self.starts), np.array(list(self.starts.values()))
        which = np.searchsorted(starts, numbers, side="right") - 1
        owners = sorted({names[i] for i in np.unique(which)})
        encoding = step.target.encoding
        if len(owners) > 1 and not (encoding.sliced and encoding.granule(step.target.shape) == 1):
            raise UnsupportedError(f"{step.target.name}: {encoding.label} needs all of {', '.join(owners)} at once")
        if (which != which[:, :1]).any():
            raise UnsupportedError(f"{step.target.name} has columns of several parameters: {step.values.explain()}")
        ends = (np.flatnonzero(np.diff(which[:, 0])) + 1).tolist()
        for start, stop in zip([0, *ends], [*ends, rows], strict=True):
            owner = which[start, 0]
            width, index = _stretches(numbers[start:stop] - starts[owner])
            yield names[owner], Piece(step.target, start, stop, step.importance, width, index)

    def numbers(self, node: Node) -> NDArray[np.int64]:
        """Which value each of [rows, columns] is: the expression is asked for the numbers of what it reads."""
        found = np.zeros((node.rows, node.columns), np.int64)
        out = np.empty(found.shape, np.float32)
        for power in range(2 if sum(map(prod, self.shapes.values())) > _EXACT else 1):

            def counted(tensor: Tensor, power: int = power) -> Tensor:
                first = self._first(tensor)
                count = np.arange(first, first + prod(tensor.shape))
                digits: NDArray[Any] = count // _EXACT if power else count % _EXACT
                return replace(tensor, encoding=F32, sources={"data": Memory(digits.astype("<f4").tobytes())})

            fill(node.mapped(counted), 0, out)
            found += out.astype(np.int64) * (_EXACT if power else 1)
        return found

    def _first(self, tensor: Tensor) -> int:
        """The number of the first value of a stand-in, or of a stretch of one."""
        (cut,) = tensor.sources.values()
        assert isinstance(cut, FileSlice) and isinstance(tensor.encoding, Dense)
        return self.starts[origin_of(tensor)] + 8 * cut.offset // tensor.encoding.dtype.bits


def _stretches(numbers: NDArray[np.int64]) -> tuple[int, NDArray[np.int64]]:
    """Numbers of values as numbers of rows, if the rows are whole."""
    columns = numbers.shape[1]
    firsts = numbers[:, 0]
    if (firsts % columns == 0).all() and (numbers == firsts[:, None] + np.arange(columns)).all():
        return columns, firsts // columns
    return 1, numbers.reshape(-1)
