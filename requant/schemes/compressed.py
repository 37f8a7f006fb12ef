"""compressed-tensors: its `quantization_config`, and W4A16 and W8A16, integers packed into words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from requant.digits import whole
from requant.encodings import DENSE, Dense, Encoding
from requant.encodings.compressed import Packed
from requant.encodings.exactness import Integers, integers_of
from requant.errors import PlanError
from requant.ir import Json
from requant.losses import Loss, LossKind
from requant.plan import Move
from requant.recipes import Overrides, Wanted, unused_overrides
from requant.schemes.linear import Applied, dense_like, dense_modules, is_linear, refuse_transposed
from requant.schemes.scheme import Scheme, check_departures

#: Groups that vLLM's kernels take; -1 is a whole row.
_GROUPS: Final = (-1, 32, 64, 128)

#: What transformers 5.23 makes of experts that it decodes and stacks while loading: those of mixtral, qwen2_moe and
#: most others (tests/test_compressed_consumers.py).
_MISREAD: Final[Mapping[str, str]] = {
    "NVFP4": "transformers 5.23, stacking experts, leaves out the scale of the whole tensor: wrong values, unwarned",
    "W8A8": "transformers 5.23, stacking experts, refuses integers of 8 bits; W8A16 it loads",
}
_DENSE_EXPERT: Final = (
    "transformers 5.23, stacking experts, finds none that are dense beside packed layers: random values, or refused"
)
_EXPERT: Final = re.compile(r"\.experts\.\d+\.")
_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class Weights:
    """One group of a configuration.

    format, type and strategy are compressed-tensors' words. targets: names of modules, which stand before that of a
    class. dynamic_activations: inputs are quantized to 8 bits of the
    same type, a scale for each token.
    """

    format: str
    bits: int
    type: str
    strategy: str
    group: int | None = None
    symmetric: bool = True
    dynamic_activations: bool = False
    scale_dtype: str | None = None
    targets: tuple[str, ...] = ("Linear",)

    def to_json(self) -> Json:
        """As compressed-tensors writes a scheme."""
        activations: Json = None
        if self.dynamic_activations:
            activations = _arguments(8, self.type, "token", dynamic=True)
        weights = _arguments(self.bits, self.type, self.strategy, self.group, self.symmetric)
        if self.scale_dtype is not None:
            weights["scale_dtype"] = self.scale_dtype
            weights["zp_dtype"] = self.scale_dtype
        return {
            "targets": list(self.targets),
            "format": self.format,
            "weights": weights,
            "input_activations": activations,
            "output_activations": None,
        }


def compressed_config(groups: Sequence[Weights], ignored: Sequence[str]) -> dict[str, Json]:
    """A configuration whose groups hold for every linear layer but the ignored ones and the head."""
    formats = {group.format for group in groups}
    return {
        "quant_method": "compressed-tensors",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": list[Json](dict.fromkeys((*ignored, "lm_head"))),
        "config_groups": {f"group_{n}": group.to_json() for n, group in enumerate(groups)},
    }


def _arguments(
    bits: int, kind: str, strategy: str, group: int | None = None, symmetric: bool = True, dynamic: bool = False
) -> dict[str, Json]:
    return {
        "num_bits": bits,
        "type": kind,
        "symmetric": symmetric,
        "strategy": strategy,
        "group_size": group,
        "block_structure": None,
        "dynamic": dynamic,
        "actorder": None,
        "observer": None if dynamic else "minmax",
        "observer_kwargs": {},
    }


@dataclass(frozen=True, slots=True)
class IntegerWeights(Scheme):
    """Weights of 4 or 8 bits, `group` columns to a scale, -1 for whole rows; activations are not quantized.

    An activation order is not carried over: since 2026, compressed-tensors refuses it, and without a word about it in
    the configuration every version takes the groups for consecutive columns.
    """

    name: str
    bits: int
    group: int
    symmetric: bool = True
    overrides: Overrides = Overrides()

    def overriding(self, overrides: Overrides) -> IntegerWeights:
        """Widths by a layer's name; nothing else departs from the recipe."""
        check_departures(
            overrides,
            lambda encoding: isinstance(encoding, Packed | Dense),
            "layers of compressed-tensors integers of theirs",
            "down_proj=W8A16-128, or =BF16 to leave them unquantized",
        )
        return replace(self, overrides=overrides)

    def apply(self, moves: Sequence[Move], config: Mapping[str, Json]) -> Applied:
        """Linear layers of the blocks are quantized, or carried over where they are such integers already."""
        refuse_transposed(config, self.name)
        encodings: list[Encoding] = []
        losses: list[Loss] = []
        for move in moves:
            named = self.overrides.named(move.name) if is_linear(move) else None
            kind = named if isinstance(named, Packed) else Packed(self.bits, self.group, self.symmetric)
            fits = kind.group < 0 or move.shape[-1:] == () or move.shape[-1] % kind.group == 0
            quantized = is_linear(move) and fits and not isinstance(named, Dense)
            encodings.append(_packed(move, kind) if quantized else dense_like(move))
            if is_linear(move) and not fits:
                detail = (
                    f"{dense_like(move).label} instead of {self.name}: rows of {move.shape[-1]} are no whole groups"
                )
                losses.append(Loss(LossKind.SUBSTITUTED, move.name, detail))
        losses += unloaded_experts(self.name, moves, encodings)
        facing = [Wanted(move.name, move.shape, encoding) for move, encoding in zip(moves, encodings, strict=True)]
        losses += unused_overrides(self.overrides, facing)
        groups = [*self._groups(moves, encodings)]
        return Applied(
            tuple(encodings), compressed_config(groups, dense_modules(moves, encodings)), losses=tuple(losses)
        )

    def _groups(self, moves: Sequence[Move], encodings: Sequence[Encoding]) -> Iterator[Weights]:
        """The recipe's own, which holds for all linear layers, and every other with the names of its modules."""
        own = (self.bits, self.group, self.symmetric)
        modules: dict[tuple[int, int, bool], list[str]] = {own: ["Linear"]}
        for move, encoding in zip(moves, encodings, strict=True):
            if isinstance(encoding, Packed):
                kind = (encoding.bits, encoding.group, encoding.symmetric)
                if kind != own:
                    modules.setdefault(kind, []).append(move.name.removesuffix(".weight"))
        for (bits, group, symmetric), names in modules.items():
            strategy, size = ("channel", None) if group < 0 else ("group", group)
            yield Weights("pack-quantized", bits, "int", strategy, size, symmetric, targets=tuple(names))

    def regrouped(self, moves: Sequence[Move]) -> Iterator[tuple[str, IntegerWeights]]:
        """With every other size of groups, whole rows left out."""
        kind, asymmetric = self.name.partition("-")[0], "" if self.symmetric else "-ASYM"
        for group in sorted(_GROUPS, reverse=True):
            if group > 0 and group != self.group:
                name = f"{kind}-{group}{asymmetric}"
                yield name, replace(self, name=name, group=group)


def _packed(move: Move, kind: Packed) -> Packed:
    """With scales of the source's dtype."""
    integers = integers_of(move.inputs[0].encoding)
    if isinstance(integers, Integers) and (integers.bits, integers.symmetric) == (kind.bits, kind.symmetric):
        return replace(kind, scale=integers.scale)
    scale = dense_like(move).label
    return replace(kind, scale=scale if scale in ("BF16", "F16") else "F32")


def unloaded_experts(scheme: str, moves: Sequence[Move], encodings: Sequence[Encoding]) -> tuple[Loss, ...]:
    """Experts that compressed-tensors stores and transformers does not load as what they are.

    One loss for all layers and experts together, for there may be tens of thousands.
    """
    told: dict[str, str] = {}
    for move, encoding in zip(moves, encodings, strict=True):
        if _EXPERT.search(move.name) and move.name.endswith(".weight"):
            detail = _DENSE_EXPERT if encoding in DENSE.values() else _MISREAD.get(scheme)
            if detail is not None:
                told[_NUMBER.sub("*", move.name)] = detail
    return tuple(Loss(LossKind.UNLOADED, name, detail) for name, detail in told.items())


def w4a16(parameters: Sequence[str]) -> IntegerWeights:
    """`W4A16` (groups of 128), `W4A16-ASYM`, `W4A16-64`."""
    return _parsed("W4A16", 4, 128, parameters)


def w8a16(parameters: Sequence[str]) -> IntegerWeights:
    """`W8A16` (a scale for each row), `W8A16-ASYM`, `W8A16-128`."""
    return _parsed("W8A16", 8, -1, parameters)


def _parsed(name: str, bits: int, group: int, parameters: Sequence[str]) -> IntegerWeights:
    text = "-".join((name, *parameters))
    groups = [size for size in map(whole, parameters) if size is not None]
    strange = [word for word in parameters if whole(word) is None and word not in ("SYM", "ASYM")]
    if strange or len(groups) > 1 or any(size not in _GROUPS for size in groups):
        raise PlanError(f"{text} is not understood", hint=f"{name}, {name}-ASYM, or {name}-32, -64, -128 for groups")
    return IntegerWeights(text, bits, (groups or [group])[0], symmetric="ASYM" not in parameters)
