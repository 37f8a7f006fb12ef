"""An adapter of PEFT as the GGUF that llama.cpp loads beside a model (`--lora`).

Source: llama.cpp's `convert_lora_to_gguf.py`, and `llama_adapter_lora_init_impl` and `get_scale` in its src/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from requant.adapters.changes import Adapter, Product, Whole
from requant.adapters.ggml import ALPHA, EMBEDDING, INVOCATION
from requant.adapters.placed import Names, Places
from requant.encodings import DENSE, F32, Dense, Encoding
from requant.errors import PlanError, UnsupportedError
from requant.expressions import Affine, Computed, Factors, Node, Stored, reshaped
from requant.ir import Checkpoint, Json, Naming, Tensor, TensorSpec, Typed
from requant.layout import Format, LayoutOptions
from requant.passes import Pass, made
from requant.passes.claim import Claim
from requant.passes.graft import Graft, stand_in
from requant.passes.translation import Family, Hyperparameters
from requant.passes.translation import Names as NamesPass
from requant.plan import Move, Plan, Step, unchanged

_MERGE: Final = "put it on its model: requant merge BASE+ADAPTER -o model.gguf"


@dataclass(frozen=True, slots=True)
class Base:
    """The model that an adapter is for. tensors: in Hugging Face's names. config: its config.json."""

    tensors: Mapping[str, Node]
    config: Mapping[str, Json]


def plan_adapter(adapter: Adapter, base: Base, target: Format, destination: Path, recipe: str | None) -> Plan:
    """Decide how an adapter becomes a GGUF. recipe: F32, F16 or BF16; None keeps the adapter's own.

    Raises `UnsupportedError` for what llama.cpp's adapters cannot say, and `PlanError` for what does not fit the model.
    """
    _check_changes(adapter, base)
    places = Places(adapter, base.tensors, base.config, Names(base.tensors))
    placed = [one for product in adapter.products for one in places.placed(product)]
    architecture, moves = _in_ggml(base)
    table = {one.name: Factors(one.up, one.down) for one in placed}
    scales = {one.name: one.scale for one in placed}
    pairs: list[tuple[str, Factors, float]] = []
    for move in moves:
        found = _factors(adapter, move, table)
        if found is not None:
            scale = next(scales[leaf.name] for leaf in move.inputs if leaf.name in scales)
            _check_scales(adapter, move, scales, scale)
            pairs.append((move.name, _shaped(found, move), scale))
    alpha = _alpha(pairs)
    if not alpha:
        raise PlanError(f"{adapter.path}: it adds nothing: it has no products, or lora_alpha is 0")
    steps = tuple(step for pair in pairs for step in _steps(*pair, alpha, _encoding(recipe)))
    metadata = _metadata(adapter, architecture, alpha)
    described: Checkpoint[TensorSpec] = Checkpoint(
        Naming.GGML, architecture, tuple(step.target for step in steps), metadata=metadata
    )
    layout = target.layout(described, destination, LayoutOptions())
    return Plan(steps, layout, opened=adapter.opened, losses=places.assumptions())


def _check_changes(adapter: Adapter, base: Base) -> None:
    """A change that is no product is an error, but for copies of what the model has."""
    for change in adapter.changes:
        if isinstance(change, Whole) and _is_copy(change, base):
            continue
        if not isinstance(change, Product):
            raise _refused(adapter, change.name, "replaces or adds what is no product of low rank")
        if change.lengths is not None:
            raise _refused(adapter, change.name, "DoRA (use_dora) scales the whole weight")
    tied = not any(name.endswith(("lm_head.weight", "embed_out.weight")) for name in base.tensors)
    for product in adapter.products:
        if tied and product.embedding:
            raise _refused(adapter, product.name, "the head is the same tensor, which llama.cpp cannot adapt as both")
        if tied and product.target.endswith("lm_head"):
            raise _refused(adapter, product.name, "the head is the embedding, which would be adapted, too")


def _factors(adapter: Adapter, move: Move, table: Mapping[str, Factors]) -> Factors | None:
    try:
        return move.values.product(table)
    except Computed as computed:
        raise UnsupportedError(
            f"{adapter.path}: {move.name} is {computed}, to which no product can be added", hint=_MERGE
        ) from None


def _is_copy(change: Whole, base: Base) -> bool:
    """Whether the model has the same: PEFT saves embeddings along with what is added to them (`base_layer`)."""
    from requant.architectures.tied import same_values

    own = Names(base.tensors).find(change.target)
    of, values = (None if own is None else base.tensors[own].verbatim), change.values.verbatim
    return of is not None and values is not None and of.shape == values.shape and same_values(of, values)


def _refused(adapter: Adapter, name: str, why: str) -> UnsupportedError:
    return UnsupportedError(f"{adapter.path}: {name!r} has no place in a GGUF adapter: {why}", hint=_MERGE)


def _in_ggml(base: Base) -> tuple[str, tuple[Move, ...]]:
    """The model's tensors in ggml's names, over leaves that have Hugging Face's."""
    tensors = tuple(stand_in(name, node, _stored_as(node)) for name, node in base.tensors.items())
    model_type = str(base.config.get("model_type") or "")
    source: Checkpoint[Tensor] = Checkpoint(Naming.HF, model_type, tensors, base.config)
    passes: list[Pass] = [Claim(Naming.GGML), Family(Naming.GGML), Hyperparameters(Naming.GGML), NamesPass(Naming.GGML)]
    said, _ = made(passes, unchanged(source))
    leaves = Graft({tensor.name: Stored(tensor) for tensor in tensors})
    return said.architecture, leaves(said).moves


def _stored_as(node: Node) -> Encoding:
    first = node.encodings()[0]
    return first if isinstance(first, Dense) else F32


def _check_scales(adapter: Adapter, move: Move, scales: Mapping[str, float], scale: float) -> None:
    """Tensors that become one have one scale."""
    others = {scales[leaf.name] for leaf in move.inputs if leaf.name in scales} - {scale}
    if others:
        raise PlanError(
            f"{adapter.path}: the parts of {move.name!r} have the scales {scale:g} and {others.pop():g}", hint=_MERGE
        )


def _shaped(found: Factors, move: Move) -> Factors:
    """With the dimensions that the tensor has."""
    stack = move.shape[:-2]
    up = reshaped(found.up, (*move.shape[:-1], found.rank))
    return Factors(up, reshaped(found.down, (*stack, found.rank, move.shape[-1])))


def _alpha(pairs: list[tuple[str, Factors, float]]) -> float:
    """What llama.cpp divides by each rank: that of the first product; the others are scaled to it."""
    return pairs[0][2] * pairs[0][1].rank if pairs else 0.0


def _steps(name: str, found: Factors, scale: float, alpha: float, encoding: Encoding | None) -> list[Step]:
    """Both factors of one tensor; `up` is scaled where the runtime would take another scale."""
    wanted = np.float32(scale)
    given = np.float32(alpha) / np.float32(found.rank)
    up = (
        found.up if abs(given - wanted) <= abs(wanted) * 2**-23 else Affine(found.up, float(scale * found.rank / alpha))
    )
    a, b = (up, found.down.turned()) if name == EMBEDDING else (found.down, up)
    steps = []
    for part, node in (("lora_a", a), ("lora_b", b)):
        own = next(one for one in node.encodings())
        stored = encoding or (own if isinstance(own, Dense) and node.holds(own) else F32)
        steps.append(Step(node, TensorSpec(f"{name}.{part}", node.shape, stored)))
    return steps


def _encoding(recipe: str | None) -> Encoding | None:
    if recipe is None:
        return None
    if recipe.upper() not in ("F32", "F16", "BF16"):
        raise PlanError(f"an adapter is not stored as {recipe}", hint="--to F32, F16 or BF16")
    return DENSE[recipe.upper()]


def _metadata(adapter: Adapter, architecture: str, alpha: float) -> dict[str, Typed]:
    found = {
        "general.architecture": Typed("str", architecture),
        "general.type": Typed("str", "adapter"),
        "adapter.type": Typed("str", "lora"),
        "general.name": Typed("str", adapter.label),
        ALPHA: Typed("f32", float(np.float32(alpha))),
    }
    invocation = () if adapter.config is None else adapter.config.invocation
    if invocation:
        found[INVOCATION] = Typed("[u32]", list(invocation))
    return found
