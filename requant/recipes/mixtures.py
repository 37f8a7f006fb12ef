"""Which tensors of a mix get more bits than the rest, and which fewer.

Every function answers with a type's label, or None for "as most tensors". The numbers are llama.cpp's experience, not a
principle; they are repeated exactly because a Q4_K_M that differs from everybody's Q4_K_M is worth nothing.
Source: `llama_tensor_get_type_impl` of llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from requant.errors import PlanError
from requant.recipes.facts import Model
from requant.recipes.names import Role, layer_of

#: The mixes below three bits, which share rules of their own.
LOW: Final = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M"})
_IQ2_SM: Final = ("IQ2_S", "IQ2_M")
_IQ1: Final = ("IQ1_S", "IQ1_M")


@dataclass(slots=True)
class Seen:
    """How many tensors of each role have been through the rules: what llama.cpp takes for the layer's number."""

    counts: dict[Role, int] = field(default_factory=dict)

    def next(self, role: Role) -> int:
        """The number of this one, counted from 0."""
        number = self.counts.get(role, 0)
        self.counts[role] = number + 1
        return number


def more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the layers, and every third in between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def mixed(recipe: str, main: str, name: str, role: Role, matrices: int, model: Model, seen: Seen) -> str | None:
    """The type of one tensor in a mix, before its shape is looked at.

    main: the label most tensors get. matrices: experts stored in this tensor, 1 for an ordinary matrix.
    seen: the running numbers; every tensor of the model passes here once, in llama.cpp's order.
    """
    if model.architecture == "glm5-next" and any(part in name for part in ("attn_q_a", "attn_q_b", "nextn.eh_proj")):
        return "Q8_0"
    if role is Role.OUTPUT or (role is Role.TOKEN_EMBEDDING and model.tied):
        return _output(recipe, main, model)
    if recipe == "MXFP4_MOE":
        expert = role in (Role.FFN_UP, Role.FFN_GATE, Role.FFN_DOWN) or model.architecture != "bailingmoe3"
        return "MXFP4" if matrices > 1 and expert else "Q8_0"
    if role is Role.TOKEN_EMBEDDING:
        return _token_embedding(recipe)
    if recipe in LOW:
        return _low(recipe, role, model, seen)
    match role:
        case Role.ATTENTION_V:
            return _attention_value(recipe, main, model, seen.next(role))
        case Role.ATTENTION_K | Role.ATTENTION_Q:
            return _attention_key_or_query(recipe, role, model)
        case Role.ATTENTION_OUTPUT:
            return _attention_output(recipe, model)
        case Role.FFN_DOWN:
            return _ffn_down(recipe, model, _layer(name, seen.next(role), model))
        case Role.FFN_UP | Role.FFN_GATE:
            layer, layers = _layer(name, seen.next(role), model), model.layers
            return "IQ3_XXS" if recipe == "IQ3_XS" and layers // 8 <= layer < 7 * layers // 8 else None
        case _:
            return None


def _layer(name: str, number: int, model: Model) -> int:
    """The layer of a feed-forward tensor: its number among its kind, but experts come in any order and carry theirs."""
    if model.experts <= 1:
        return number
    layer = layer_of(name)
    if layer is None or not 0 <= layer < model.layers:
        raise PlanError(f"tensor {name} should name a layer from 0 to {model.layers - 1}, the model's block_count")
    return layer


def _output(recipe: str, main: str, model: Model) -> str:
    """The output matrix, or the embedding that stands for it."""
    if recipe == "MXFP4_MOE" or model.architecture == "falcon":
        return "Q8_0"
    if recipe in LOW or recipe == "IQ3_XXS":
        return "Q5_K"
    return "Q8_0" if main == "Q8_0" else "Q6_K"


def _token_embedding(recipe: str) -> str | None:
    match recipe:
        case "IQ2_XXS" | "IQ2_XS" | "IQ1_S" | "IQ1_M":
            return "Q2_K"
        case "IQ2_S" | "IQ2_M" | "IQ3_XXS":
            return "IQ3_S"
        case "TQ1_0" | "TQ2_0" | "Q2_0":
            return "Q4_K"
        case _:
            return None


def _low(recipe: str, role: Role, model: Model, seen: Seen) -> str | None:
    """Any role in a mix below three bits."""
    better = "IQ3_S" if recipe in _IQ2_SM else "Q2_K"
    match role:
        case Role.ATTENTION_V:
            return "Q4_K" if model.heads_per_kv >= 4 or model.experts >= 4 else better
        case Role.ATTENTION_K if model.experts == 8:
            return "Q4_K"
        case Role.FFN_DOWN:
            return better if seen.next(role) < model.layers // 8 else None
        case Role.ATTENTION_OUTPUT if model.experts == 8:
            return "Q5_K"
        case Role.ATTENTION_OUTPUT:
            return "IQ2_XXS" if recipe in _IQ1 else "IQ3_S" if recipe in _IQ2_SM else None
        case _:
            return None


def _attention_value(recipe: str, main: str, model: Model, number: int) -> str | None:
    """Values, and the fused projections that contain them."""
    shared = model.heads_per_kv >= 4
    chosen: str | None = None
    match recipe:
        case "Q2_K":
            chosen = "Q4_K" if shared else "Q3_K"
        case "IQ3_XXS":
            chosen = "Q4_K" if shared else None if model.has_importance else "IQ3_S"
        case "Q2_K_S" | "IQ3_XS" | "IQ3_S" if shared:
            chosen = "Q4_K"
        case "IQ3_M":
            chosen = "Q4_K"
        case "Q3_K_M":
            chosen = "Q5_K" if number < 2 else "Q4_K"
        case "Q3_K_L":
            chosen = "Q5_K"
        case "IQ4_NL" | "IQ4_XS" if shared:
            chosen = "Q5_K"
        case "Q4_K_M" | "Q5_K_M" if more_bits(number, model.values):
            chosen = "Q6_K"
        case "Q4_K_S" if number < 4:
            chosen = "Q5_K"
    if model.is_70b and (chosen or main) in ("Q3_K", "Q4_K"):
        chosen = "Q5_K"  # eight heads share these values, so that more bits cost little
    return "Q8_0" if model.experts == 8 else chosen


def _attention_key_or_query(recipe: str, role: Role, model: Model) -> str | None:
    if role is Role.ATTENTION_K and model.experts == 8:
        return "Q8_0"
    return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(recipe)


_OUTPUT_OF_8_EXPERTS: Final = frozenset(
    ("Q2_K", "IQ3_XS", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ3_S", "IQ3_M", "IQ4_XS")
)
_OUTPUT: Final = {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}


def _attention_output(recipe: str, model: Model) -> str | None:
    if model.architecture == "falcon":
        return "Q4_K" if recipe == "Q3_K_L" else None
    if model.experts == 8:
        return "Q5_K" if recipe in _OUTPUT_OF_8_EXPERTS else None
    return _OUTPUT.get(recipe)


def _ffn_down(recipe: str, model: Model, layer: int) -> str | None:
    falcon = model.architecture == "falcon"
    first_eighth = layer < model.layers // 8
    first_sixteenth = layer < model.layers // 16
    more = more_bits(layer, model.layers)
    match recipe:
        case "Q2_K":
            return "Q3_K"
        case "Q2_K_S":
            return "Q4_K" if first_eighth else None
        case "IQ3_XXS" if not model.has_importance:
            return "Q4_K" if first_eighth else "Q3_K"
        case "Q3_K_M":
            return "Q5_K" if first_sixteenth else "Q4_K" if more or not falcon else "Q3_K"
        case "IQ3_M":
            return "Q4_K" if first_eighth or (model.experts == 8 and more) else None
        case "Q3_K_L":
            return "Q4_K" if falcon else "Q5_K"
        case "Q4_K_M" if falcon:
            return "Q6_K" if first_sixteenth else "Q5_K" if more else "Q4_K"
        case "Q4_K_M" | "Q5_K_M":
            return "Q6_K" if more else None
        case "IQ4_NL" | "IQ4_XS":
            return "Q5_K" if first_eighth and not model.has_importance else None
        case "Q4_K_S":
            return "Q5_K" if first_eighth and not falcon else None
        case "Q4_0" | "Q5_0":
            # the first layers go wrong with an importance matrix; without one the result stays as it always was
            return recipe[:-1] + "1" if first_eighth and model.has_importance else None
        case _:
            return None
