"""Named mixes of encodings: which tensor becomes what, and why. Pure: names, shapes and metadata in, choices out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from requant.recipes.choose import Choice, Wanted, choose_encodings, unused_overrides, unused_roles
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
    from requant.recipes.pruning import pruned_metadata, pruned_name, pruned_names
    from requant.recipes.table import ALIASES, ENCODINGS, RECIPES, Recipe, encoding_named, recipe_named

#: Name -> the module here that has it, imported when the name is used: the names of recipes are in the help of
#: commands, which need nothing else.
_HOMES: Final = {
    "Choice": "choose",
    "Wanted": "choose",
    "choose_encodings": "choose",
    "unused_overrides": "choose",
    "unused_roles": "choose",
    "choose_converted": "converter",
    "own_file_type": "converter",
    "Facts": "facts",
    "quantized_metadata": "header",
    "check_importance": "importances",
    "missing_importance": "importances",
    "fitted": "key_kinds",
    "kind_of": "key_kinds",
    "file_order": "names",
    "ggml_shape": "names",
    "Overrides": "options",
    "layers_to_prune": "options",
    "overridden": "options",
    "override_kv": "options",
    "tensor_type": "options",
    "tensor_type_file": "options",
    "pruned_metadata": "pruning",
    "pruned_name": "pruning",
    "pruned_names": "pruning",
    "ALIASES": "table",
    "ENCODINGS": "table",
    "RECIPES": "table",
    "Recipe": "table",
    "encoding_named": "table",
    "recipe_named": "table",
}

__all__ = [
    "ALIASES",
    "ENCODINGS",
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
    "pruned_name",
    "pruned_names",
    "quantized_metadata",
    "recipe_named",
    "tensor_type",
    "tensor_type_file",
    "unused_overrides",
    "unused_roles",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
