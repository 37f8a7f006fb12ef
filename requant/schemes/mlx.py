"""MLX as mlx-lm stores it: affine integers, one width for all or several, and the small floats of its other modes.

Every matrix whose rows are whole groups is quantized, embeddings and output too, where the family's class has a module
for it. Source: `quantize_model` and `convert.py` of mlx-lm 0.32.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Final

from requant.digits import whole
from requant.encodings import F32, Dense, Encoding
from requant.encodings.mlx import MlxAffine
from requant.encodings.scaled import ELEMENT_BITS, MLX_FLOATS, Scaled
from requant.encodings.small_floats import takes
from requant.errors import PlanError
from requant.ir import Json
from requant.losses import Loss, LossKind
from requant.plan import Move
from requant.recipes import Overrides, Wanted, unused_overrides
from requant.recipes.mlx_types import GROUPS, MIXED, affine, mlx_type
from requant.schemes.linear import Applied, dense_like
from requant.schemes.scheme import Scheme, check_departures

if TYPE_CHECKING:
    from requant.architectures.mlx_names import MlxFamily

#: What mlx-lm gives the modules that a family's class wants finer.
FINER: Final = MlxAffine(8, 64)
_LAYER: Final = re.compile(r"\.(\d+)\.", re.ASCII)
#: Dtypes of scales, which are that of the weights.
_SCALES: Final = ("F32", "F16", "BF16")
#: What mlx-lm does not cast (`cast_predicate`).
_OWN: Final = re.compile(r"expert_bias|e_score_correction_bias|A_log$|dt_bias$")


@dataclass(frozen=True, slots=True)
class MlxScheme(Scheme):
    """main: what most modules become, its dtypes aside. high: of the modules that a mixed recipe gives more bits.

    overrides: the user's departures; their encodings are MLX's too, or dense ones.
    """

    main: MlxAffine | Scaled
    high: MlxAffine | None = None
    overrides: Overrides = Overrides()

    @property
    def config_keys(self) -> tuple[str, ...]:
        """mlx-lm reads the one, and the Hub the other."""
        return ("quantization", "quantization_config")

    @property
    def file_format(self) -> str:
        """What `__metadata__` says."""
        return "mlx"

    def overriding(self, overrides: Overrides) -> MlxScheme:
        """Types by a module's name; nothing else departs from a recipe of MLX's."""
        check_departures(
            overrides,
            lambda encoding: (
                isinstance(encoding, MlxAffine | Dense) or (isinstance(encoding, Scaled) and encoding.kind == "mlx")
            ),
            "modules of MLX types of MLX",
            "down_proj=MLX-8, =MLX-6-32, =MLX-MXFP4, or =F16 to leave them unquantized",
        )
        return replace(self, overrides=overrides)

    def renamed(self, moves: Sequence[Move], config: Mapping[str, Json]) -> tuple[tuple[Move, ...], tuple[Loss, ...]]:
        """As mlx-lm's classes have them."""
        from requant.architectures.mlx_names import renamed

        kept, dropped = renamed(moves, config)
        why = "mlx-lm has no place for it"
        return kept, tuple(replace(Loss.of_tensor(move.inputs[0], why), subject=move.name) for move in dropped)

    def apply(self, moves: Sequence[Move], config: Mapping[str, Json]) -> Applied:
        """Every module that the family's class can quantize, unless its rows are no whole groups."""
        from requant.architectures.mlx_names import mlx_family

        family, high = mlx_family(config), self._high(moves, config)
        settings, losses, encodings = dict[str, Json](self._general), list[Loss](), list[Encoding]()
        dtype = _dtype(moves)
        for move in moves:
            dense = _dense(move, dtype)
            wanted = self._wanted(move, family, high) or dense
            group = (
                1 if isinstance(wanted, Dense) else wanted.group if isinstance(wanted, MlxAffine) else wanted.columns
            )
            if isinstance(wanted, Dense):
                encodings.append(wanted)
            elif move.shape[-1] % group:
                encodings.append(dense)
                why = f"rows of {move.shape[-1]} are no whole groups of {group}"
                losses.append(Loss(LossKind.SUBSTITUTED, move.name, f"{dense.label} instead of {wanted.label}: {why}"))
            else:
                encodings.append(_in_dtype(wanted, dtype, move.inputs[0].encoding))
                if self.high is not None or wanted is not self.main:
                    settings[_module(move)] = _settings(wanted)
        facing = [Wanted(move.name, move.shape, encoding) for move, encoding in zip(moves, encodings, strict=True)]
        losses += unused_overrides(self.overrides, facing)
        return Applied(tuple(encodings), settings, losses=tuple(losses))

    def regrouped(self, moves: Sequence[Move]) -> Iterator[tuple[str, MlxScheme]]:
        """Integers with every other size of groups; small floats have one."""
        if not isinstance(self.main, MlxAffine):
            return
        widths = {bits: name for name, bits in MIXED.items()}
        word = str(self.main.bits) if self.high is None else widths[self.main.bits, self.high.bits]
        for group in sorted(GROUPS, reverse=True):
            if group != self.main.group:
                high = None if self.high is None else replace(self.high, group=group)
                yield f"MLX-{word}-{group}", replace(self, main=replace(self.main, group=group), high=high)

    @property
    def _general(self) -> Mapping[str, Json]:
        """What config.json says of all; where a mixed recipe names every module besides, that is mlx-lm's default."""
        if self.high is not None and isinstance(self.main, MlxAffine):
            return _settings(replace(self.main, bits=4))
        return _settings(self.main)

    def _wanted(self, move: Move, family: MlxFamily, high: frozenset[str]) -> MlxAffine | Scaled | Dense | None:
        """What a tensor should be stored as; None for what is no linear layer."""
        module = _module(move)
        is_matrix = len(move.shape) > 1 and module != move.name and move.shape[-1] > 1
        if not is_matrix or family.leaves(move.name):
            return None
        named = self.overrides.named(move.name)
        if isinstance(named, MlxAffine | Scaled | Dense):
            return named
        if family.keeps_mxfp4 and takes(move.inputs[0].encoding, MLX_FLOATS["mxfp4"]):
            return MLX_FLOATS["mxfp4"]
        if self.high is not None:
            return self.high if module in high else self.main
        return FINER if family.wants_finer(module) else self.main

    def _high(self, moves: Sequence[Move], config: Mapping[str, Json]) -> frozenset[str]:
        """Modules that a mixed recipe gives more bits: values and down in some layers, and the output."""
        if self.high is None:
            return frozenset()
        modules = [_module(move) for move in moves if _module(move) != move.name]
        down = next((module for module in modules if "down_proj" in module), None)
        layers = config.get("num_hidden_layers")
        if down is None or not isinstance(layers, int) or (place := _LAYER.search(down)) is None:
            raise PlanError(
                "mixed recipes of MLX give more bits to layers called down_proj, which this model has not",
                hint="--to MLX-4, with --tensor-type REGEX=MLX-6 for those that need more",
            )
        at = down[: place.start(1)].count(".")
        found = []
        for module in modules:
            pieces = module.split(".")
            number = whole(pieces[at]) if at < len(pieces) else None
            index, first = number or 0, layers // 8
            more = index < first or index >= 7 * layers // 8 or (index - first) % 3 == 2
            kind = any(name in module for name in ("v_proj", "v_a_proj", "v_b_proj", "down_proj"))
            if (kind and more) or "lm_head" in module:
                found.append(module)
        return frozenset(found)


def _module(move: Move) -> str:
    return move.name.removesuffix(".weight")


def _dtype(moves: Sequence[Move]) -> Dense:
    """In which dtype the model computes: that of most weights, as it is with mlx-lm, where one that is wider would
    make all that follows wider and slower."""
    sizes: dict[Dense, int] = {}
    for move in moves:
        dense = dense_like(move)
        dense = dense if dense.label in _SCALES else F32
        sizes[dense] = sizes.get(dense, 0) + prod(move.shape)
    return max(sizes, key=lambda dense: sizes[dense], default=F32)


def _dense(move: Move, dtype: Dense) -> Dense:
    """What holds a tensor that is not quantized; what steers experts and states keeps its own dtype."""
    own = dense_like(move)
    return own if not own.dtype.is_float or _OWN.search(move.name) else dtype


def _in_dtype(encoding: MlxAffine | Scaled, dtype: Dense, source: Encoding) -> Encoding:
    """With scales of the model's dtype; small floats are chosen in it, unless they are already."""
    if isinstance(encoding, MlxAffine):
        return replace(encoding, scale=dtype.label)
    return encoding if source == encoding else replace(encoding, chosen_in=dtype.label)


def _settings(encoding: MlxAffine | Scaled) -> dict[str, Json]:
    """As config.json has them."""
    if encoding is FINER:
        return {"group_size": encoding.group, "bits": encoding.bits}  # without the mode
    if isinstance(encoding, MlxAffine):
        return {"group_size": encoding.group, "bits": encoding.bits, "mode": "affine"}
    mode = next(mode for mode, floats in MLX_FLOATS.items() if floats == encoding)
    return {"group_size": encoding.columns, "bits": ELEMENT_BITS[encoding.element], "mode": mode}


def mlx(parameters: Sequence[str]) -> MlxScheme:
    """`MLX`, `MLX-4`, `MLX-4BIT`, `MLX-6-32`, `MLX-MIXED_3_6`, `MLX-MXFP4`, `MLX-NVFP4`, `MLX-MXFP8`."""
    word = parameters[0] if parameters else ""
    if word in MIXED and len(parameters) <= 2:
        low, high = (affine([str(bits), *parameters[1:]], parameters) for bits in MIXED[word])
        return MlxScheme(low, high)
    return MlxScheme(mlx_type(parameters))
