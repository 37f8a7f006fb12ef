"""GPTQ and AWQ folders, as GPTQModel, transformers, AutoAWQ and vLLM load them.

What is stored as such integers already is carried over as it is; everything else is rounded to nearest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from requant.digits import whole
from requant.encodings import Blocks, Dense, Encoding
from requant.encodings.awq import Awq, Kind
from requant.encodings.exactness import Integers, integers_of
from requant.encodings.gptq import Gptq, Order, Zeros
from requant.errors import PlanError
from requant.feedback import ColumnOrder, Feedback, described
from requant.ir import Json
from requant.losses import Loss, LossKind
from requant.plan import Move
from requant.recipes import Overrides, Wanted, unused_overrides
from requant.recipes.gptq_types import BITS
from requant.schemes.linear import Applied, dense_like, dense_modules, is_linear, refuse_transposed
from requant.schemes.scheme import Scheme, check_departures
from requant.sources import Memory

#: What is told where layers differ in width.
_MIXED: Final = "transformers 5.23 takes all layers for one width, and refuses these; GPTQModel 7.7 loads them"
#: What GPTQModel's kernels take; -1 is a whole row.
_GROUPS: Final = (-1, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class GptqScheme(Scheme):
    """None leaves a choice to the model: what its layers are stored as, else 4 bits, 128, symmetric, v1 (v2 if not)."""

    bits: int | None = None
    group: int | None = None
    symmetric: bool | None = None
    zeros: Zeros | None = None
    feedback: Feedback | None = field(default=None, compare=False)
    overrides: Overrides = Overrides()

    def overriding(self, overrides: Overrides) -> GptqScheme:
        """Widths by a layer's name; nothing else departs from the recipe."""
        check_departures(
            overrides,
            lambda encoding: isinstance(encoding, Gptq | Dense),
            "layers of GPTQ integers of theirs",
            "down_proj=GPTQ-8-128, or =BF16 to leave them unquantized",
        )
        return replace(self, overrides=overrides)

    def apply(self, moves: Sequence[Move], config: Mapping[str, Json]) -> Applied:
        """Linear layers of the blocks become GPTQ, and an output layer that is quantized stays so."""
        refuse_transposed(config, "GPTQ")
        usual = _usual(moves)
        wanted = Gptq(self.bits or usual.bits, usual.group if self.group is None else self.group)
        named = [self.overrides.named(move.name) if is_linear(move) else None for move in moves]
        first = [
            self._like(move, replace(wanted, bits=own.bits, group=own.group) if isinstance(own, Gptq) else wanted)
            if _quantized(move) and not isinstance(own, Dense)
            else None
            for move, own in zip(moves, named, strict=True)
        ]
        asymmetric = any(encoding is not None and not encoding.symmetric for encoding in first)
        zeros = self.zeros or (Zeros.V2 if asymmetric else Zeros.V1)
        chosen = [None if encoding is None else replace(encoding, zeros=zeros) for encoding in first]
        encodings, losses = _fitted(moves, chosen, even=32)
        ordered = any(isinstance(encoding, Gptq) and encoding.order is Order.ACT for encoding in encodings)
        outputs = [e for move, e in zip(moves, encodings, strict=True) if move.name == "lm_head.weight"]
        quantization: dict[str, Json] = {
            "bits": wanted.bits,
            "group_size": wanted.group,
            "desc_act": ordered,
            "sym": not asymmetric,
            "lm_head": any(isinstance(encoding, Gptq) for encoding in outputs),
            "quant_method": "gptq",
            "checkpoint_format": "gptq" if zeros is Zeros.V1 else "gptq_v2",
            "pack_dtype": "int32",
            "damp_percent": self.feedback.options.damping if self.feedback else 0.01,
            "static_groups": self.feedback is not None and self.feedback.options.order is ColumnOrder.STATIC,
            "true_sequential": self.feedback is None,
            "meta": {"quantizer": ["requant"], **({"feedback": described(self.feedback)} if self.feedback else {})},
        }
        dynamic = _dynamic(moves, encodings, wanted)
        if dynamic:
            quantization["dynamic"] = dynamic
        if any(dynamic.values()):
            losses = (*losses, Loss(LossKind.UNLOADED, "dynamic", _MIXED))
        facing = [Wanted(move.name, move.shape, encoding) for move, encoding in zip(moves, encodings, strict=True)]
        losses = (*losses, *unused_overrides(self.overrides, facing))
        files = {"quantize_config.json": Memory((json.dumps(quantization, indent=2) + "\n").encode())}
        return Applied(encodings, quantization, files, losses)

    def correcting(self, feedback: Feedback) -> GptqScheme:
        """With columns by falling activation, if those are asked for."""
        return replace(self, feedback=feedback)

    def regrouped(self, moves: Sequence[Move]) -> Iterator[tuple[str, GptqScheme]]:
        """With every size of groups that GPTQModel's kernels take, whole rows left out."""
        bits = self.bits or _usual(moves).bits
        words = [] if self.symmetric is None else ["SYM" if self.symmetric else "ASYM"]
        words += [] if self.zeros is None else ["V1" if self.zeros is Zeros.V1 else "V2"]
        for group in _groups(self.group):
            yield "-".join(["GPTQ", str(bits), str(group), *words]), replace(self, bits=bits, group=group)

    def _like(self, move: Move, wanted: Gptq) -> Gptq:
        """`wanted`, with the zeros and the order of the source where its integers can be carried over."""
        source = move.inputs[0].encoding
        integers = integers_of(source)
        if not isinstance(integers, Integers) or integers.bits > wanted.bits:
            by_activation = self.feedback is not None and self.feedback.options.order is ColumnOrder.ACT
            order = Order.ACT if by_activation else Order.STORED
            return replace(wanted, symmetric=self.symmetric is not False, order=order)
        ordered = integers.ordered and (integers.bits, integers.group) == (wanted.bits, wanted.group)
        symmetric = integers.symmetric if self.symmetric is None else self.symmetric
        order = Order.ACT if ordered else Order.STORED
        return replace(wanted, symmetric=symmetric, order=order, scale=integers.scale)


@dataclass(frozen=True, slots=True)
class AwqScheme(Scheme):
    """AWQ gemm, with zeros; group: None for what the layers are stored in, else 128."""

    group: int | None = None

    def apply(self, moves: Sequence[Move], config: Mapping[str, Json]) -> Applied:
        """Linear layers of the blocks become AWQ; the output layer never: no loader expects it."""
        refuse_transposed(config, "AWQ")
        usual = _usual(moves)
        group = self.group if self.group is not None else usual.group if usual.bits <= 4 else 128
        encodings, losses = _fitted(
            moves, [self._like(move, group) if is_linear(move) else None for move in moves], even=8
        )
        dense = [name for name in dense_modules(moves, encodings) if name != "lm_head"]
        quantization: dict[str, Json] = {
            "quant_method": "awq",
            "bits": 4,
            "group_size": group,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": ["lm_head", *dense] if dense else None,
        }
        return Applied(encodings, quantization, losses=losses)

    def regrouped(self, moves: Sequence[Move]) -> Iterator[tuple[str, AwqScheme]]:
        """With every other size of groups, whole rows left out."""
        for group in _groups(self.group):
            yield f"AWQ-{group}", AwqScheme(group)

    @staticmethod
    def _like(move: Move, group: int) -> Awq:
        integers = integers_of(move.inputs[0].encoding)
        return Awq(Kind.GEMM, group, isinstance(integers, Integers) and integers.symmetric and integers.bits <= 4)


def _dynamic(moves: Sequence[Move], encodings: Sequence[Encoding], usual: Gptq) -> dict[str, Json]:
    """Layers that are no such integers as most (`usual`): expressions for their names, as GPTQModel reads them."""
    found: dict[str, Json] = {}
    for move, encoding in zip(moves, encodings, strict=True):
        module = f"^{re.escape(move.name.removesuffix('.weight'))}$"
        if isinstance(encoding, Gptq) and (encoding.bits, encoding.group) != (usual.bits, usual.group):
            found[f"+:{module}"] = {"bits": encoding.bits, "group_size": encoding.group}
        elif is_linear(move) and not isinstance(encoding, Gptq):
            found[f"-:{module}"] = {}
    return found


def _groups(asked: int | None) -> list[int]:
    """Sizes but the one that was asked for, the largest first; a scale for a whole row costs too much exactness."""
    return sorted((group for group in _GROUPS if group > 0 and group != asked), reverse=True)


def gptq(parameters: Sequence[str]) -> GptqScheme:
    """`GPTQ`, `GPTQ-4-128`, `GPTQ-8--1` (a scale for each row), `GPTQ-4-128-ASYM`, `-SYM`, `-V1`, `-V2`."""
    numbers, words = _parameters("GPTQ", parameters, {"SYM", "ASYM", "V1", "V2"})
    bits, group = (*numbers, None, None)[:2]
    if (bits not in (None, *BITS)) or (group not in (None, *_GROUPS)) or len(numbers) > 2:
        raise PlanError(
            f"GPTQ-{'-'.join(parameters)} is not understood",
            hint=f"GPTQ-BITS-GROUP, of {', '.join(map(str, BITS))} bits and groups of {', '.join(map(str, _GROUPS))}",
        )
    symmetric = True if "SYM" in words else False if "ASYM" in words else None
    zeros = Zeros.V1 if "V1" in words else Zeros.V2 if "V2" in words else None
    return GptqScheme(bits, group, symmetric, zeros)


def awq(parameters: Sequence[str]) -> AwqScheme:
    """`AWQ`, `AWQ-128`, `AWQ-4-128`."""
    numbers, _ = _parameters("AWQ", parameters, set())
    if len(numbers) == 2 and numbers[0] == 4:
        numbers = numbers[1:]
    if len(numbers) > 1 or (numbers and numbers[0] not in _GROUPS):
        raise PlanError(
            f"AWQ-{'-'.join(parameters)} is not understood",
            hint=f"AWQ-4-GROUP: 4 bits, and groups of {', '.join(map(str, _GROUPS))}",
        )
    return AwqScheme(numbers[0] if numbers else None)


def _parameters(scheme: str, parameters: Sequence[str], known: set[str]) -> tuple[list[int], list[str]]:
    """Numbers and words; an empty parameter is the minus sign of the next."""
    numbers, words, sign = [], [], 1
    for text in parameters:
        if (number := whole(text)) is not None:
            numbers.append(sign * number)
        elif text in known:
            words.append(text)
        elif text:
            raise PlanError(f"{scheme}-{'-'.join(parameters)} is not understood: {text}")
        sign = 1 if text else -1
    return numbers, words


def _quantized(move: Move) -> bool:
    """Linear layers, and an output layer that is stored as integers of a Hugging Face folder already."""
    source = move.inputs[0].encoding
    is_output = move.name == "lm_head.weight" and isinstance(integers_of(source), Integers)
    return is_linear(move) or (is_output and not isinstance(source, Blocks))


def _usual(moves: Sequence[Move]) -> Integers:
    """The integers that linear layers are stored as already, all but plain ones; else 4 bits in groups of 128.

    Most quantized models have layers that were left as they are: these are no reason to round the others again.
    """
    stored = {tensor.encoding for move in moves if is_linear(move) for tensor in move.inputs}
    found = {integers_of(encoding) for encoding in stored if not isinstance(encoding, Dense)}
    integers = [item for item in found if isinstance(item, Integers)]
    same = {(item.bits, item.group) for item in integers}
    if len(integers) == len(found) and len(same) == 1 and integers[0].bits in BITS and integers[0].group in _GROUPS:
        return integers[0]
    return Integers(4, True, 128)


def _fitted(
    moves: Sequence[Move], chosen: Sequence[Encoding | None], even: int
) -> tuple[tuple[Encoding, ...], tuple[Loss, ...]]:
    """The chosen encodings where shapes allow them; None and the rest stay dense, the rest with a loss.

    even: rows and columns are multiples of this many.
    """
    encodings: list[Encoding] = []
    losses = []
    for move, encoding in zip(moves, chosen, strict=True):
        why = "" if encoding is None else _misfit(move, encoding, even)
        if encoding is None or why:
            encodings.append(dense_like(move))
        else:
            encodings.append(encoding)
        if encoding is not None and why:
            detail = f"{encodings[-1].label} instead of {encoding.label}: {why}"
            losses.append(Loss(LossKind.SUBSTITUTED, move.name, detail))
    return tuple(encodings), tuple(losses)


def _misfit(move: Move, encoding: Encoding, even: int) -> str:
    group = encoding.group if isinstance(encoding, Gptq | Awq) else 1
    outputs, inputs = move.shape
    if outputs % even or inputs % even:
        return f"{outputs} by {inputs} is no multiple of {even} both ways"
    return f"rows of {inputs} are no multiple of {group}" if group > 0 and inputs % group else ""
