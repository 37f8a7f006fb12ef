"""Named mixes of encodings: which tensor becomes what, and why. Pure: names, shapes and metadata in, choices out."""

from requant.recipes.choose import Choice, Wanted, choose_encodings, unused_overrides
from requant.recipes.converter import choose_converted, own_file_type
from requant.recipes.facts import Facts
from requant.recipes.header import quantized_metadata
from requant.recipes.importances import check_importance, missing_importance
from requant.recipes.key_kinds import fitted, kind_of
from requant.recipes.names import file_order, ggml_shape
from requant.recipes.options import (
    Overrides,
    layers_to_prune,
    overridden,
    override_kv,
    tensor_type,
    tensor_type_file,
)
from requant.recipes.pruning import pruned_metadata, pruned_names
from requant.recipes.table import ALIASES, RECIPES, Recipe, encoding_named, recipe_named

__all__ = [
    "ALIASES",
    "RECIPES",
    "Choice",
    "Facts",
    "Overrides",
    "Recipe",
    "Wanted",
    "check_importance",
    "choose_converted",
    "choose_encodings",
    "encoding_named",
    "file_order",
    "fitted",
    "ggml_shape",
    "kind_of",
    "layers_to_prune",
    "missing_importance",
    "overridden",
    "override_kv",
    "own_file_type",
    "pruned_metadata",
    "pruned_names",
    "quantized_metadata",
    "recipe_named",
    "tensor_type",
    "tensor_type_file",
    "unused_overrides",
]
