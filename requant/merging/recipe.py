"""Recipes of merges, in mergekit's YAML: which models make which layers of the result, how, and with which tokenizer.

Known keys are those of mergekit 0.1.5, which passes over others in silence; here an unknown one is an error. Several
documents in one file are recipes that may use each other by `name`, as mergekit-multi has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from requant.errors import PlanError
from requant.merging.entry import Entry
from requant.merging.methods import METHODS
from requant.merging.methods.method import Method
from requant.merging.precision import Precision
from requant.merging.reference import Reference
from requant.merging.settings import Setting, settings_of
from requant.merging.vocabulary_rules import TokenizerRules, rules_of

#: Longer recipes are none.
_LARGEST: Final = 1 << 20
_DTYPES: Final = {"bfloat16": Precision.BF16, "float16": Precision.F16, "float32": Precision.F32}
_KEYS: Final = (
    "name",
    "merge_method",
    "models",
    "slices",
    "modules",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer",
    "tokenizer_source",
    "chat_template",
)


@dataclass(frozen=True, slots=True)
class Input:
    """One model of a slice. layers: its layers `[first, second)`; None is all of them."""

    model: Reference
    layers: tuple[int, int] | None
    settings: dict[str, Setting]
    entry: Entry


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive layers of the result, made of as many of each input. base: of its own, if it has one. module: the
    settings of the module that it is in."""

    inputs: tuple[Input, ...]
    settings: dict[str, Setting]
    base: Reference | None
    entry: Entry
    module: dict[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Module:
    """A part of a model that is made by itself. name: as the recipe calls it; None is every module of the models, each
    with all of its layers where no slice says which. settings: between those of slices and those of the whole."""

    name: str | None
    slices: tuple[Slice, ...]
    settings: dict[str, Setting]
    entry: Entry


@dataclass(frozen=True, slots=True)
class Recipe:
    """One merge. text: as the user wrote it, for the model card."""

    name: str | None
    method: Method
    modules: tuple[Module, ...]
    settings: dict[str, Setting]
    base: Reference | None
    dtype: Precision | None
    out_dtype: Precision | None
    tokenizer: TokenizerRules | None
    chat_template: str | None
    text: str
    entry: Entry

    @property
    def slices(self) -> tuple[Slice, ...]:
        """Those of all modules."""
        return tuple(one for module in self.modules for one in module.slices)

    def references(self) -> tuple[Reference, ...]:
        """The models, each once; the base first, then in the order of the recipe."""
        bases = [self.base, *(one.base for one in self.slices)]
        models = [source.model for one in self.slices for source in one.inputs]
        tokens = list(self.tokenizer.references()) if self.tokenizer else []
        return tuple(dict.fromkeys(one for one in (*bases, *models, *tokens) if one is not None))


def recipes_from(text: str, file: str) -> tuple[Recipe, ...]:
    """All recipes of a file; raises `PlanError` for what is no recipe, naming the key."""
    if len(text) > _LARGEST:
        raise PlanError(f"{file}: a recipe of {len(text):,} characters is none")
    documents = [document for document in documents_of(text, file) if document is not None]
    if not documents:
        raise PlanError(f"{file}: there is no recipe in it", hint="see `requant merge --help` for one")
    recipes = tuple(_recipe(Entry(file, "", document), text) for document in documents)
    names = [recipe.name for recipe in recipes]
    for name in names:
        if names.count(name) > 1:
            told = f"two recipes are called {name!r}" if name else "two recipes have no name"
            raise PlanError(f"{file}: {told}", hint="give each recipe but the last a name")
    return recipes


def documents_of(text: str, file: str) -> list[Any]:
    """What YAML has in it; raises `PlanError` for what is none, and for a key that stands twice."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
        """A key that stands twice is an error, not the last of the two."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
            for key in keys:
                if keys.count(key) > 1 and key != "<<":
                    raise PlanError(f"{file}, line {node.start_mark.line + 1}: the key {key!r} stands twice")
            found: dict[Any, Any] = super().construct_mapping(node, deep)
            return found

    try:
        return list(yaml.load_all(text, Loader))
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise PlanError(f"{file}{line}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PlanError(f"{file}: not YAML: {str(error)[:200]}") from None


def _recipe(entry: Entry, text: str) -> Recipe:
    members = entry.members(_KEYS)
    if "merge_method" not in members:
        raise entry.wrong("has no merge_method", f"there are {', '.join(METHODS)}")
    name = members["merge_method"].text()
    if name not in METHODS:
        raise members["merge_method"].unknown(name, list(METHODS), "no method is called")
    base = Reference.of(members["base_model"]) if "base_model" in members else None
    return Recipe(
        members["name"].text() if "name" in members else None,
        METHODS[name],
        _modules(entry, members),
        settings_of(members.get("parameters")),
        base,
        _dtype(members.get("dtype")),
        _dtype(members.get("out_dtype")),
        rules_of(members.get("tokenizer"), members.get("tokenizer_source")),
        members["chat_template"].text() if "chat_template" in members else None,
        text,
        entry,
    )


def _modules(entry: Entry, members: dict[str, Entry]) -> tuple[Module, ...]:
    """What the result is made of."""
    given = [key for key in ("models", "slices", "modules") if key in members]
    if len(given) != 1:
        told = f"has {' and '.join(given)}" if given else "has no models, slices or modules"
        raise entry.wrong(told, "a recipe has one of models, slices and modules")
    if "modules" not in members:
        return (Module(None, _slices(entry, members), {}, entry),)
    found = []
    for name, module in members["modules"].named():
        inside = module.members(("slices", "models", "parameters"))
        if ("slices" in inside) == ("models" in inside):
            raise module.wrong("has one of models and slices")
        settings = settings_of(inside.get("parameters"))
        slices = tuple(replace(one, module=settings) for one in _slices(module, inside))
        found.append(Module(name, slices, settings, module))
    if not found:
        raise members["modules"].expected("a mapping with something in it")
    return tuple(found)


def _slices(entry: Entry, members: dict[str, Entry]) -> tuple[Slice, ...]:
    """Of models one, with all layers of each."""
    if "models" in members:
        return (_models(members["models"]),)
    return tuple(_slice(item) for item in members["slices"].items())


def _models(entry: Entry) -> Slice:
    return Slice(tuple(_input(item, layered=False) for item in entry.items()), {}, None, entry)


def _slice(entry: Entry) -> Slice:
    members = entry.members(("sources", "base_model", "parameters", "residual_weight"))
    if "residual_weight" in members:
        raise members["residual_weight"].wrong("does nothing, in mergekit as here", "leave it out")
    if "sources" not in members:
        raise entry.wrong("has no sources")
    inputs = tuple(_input(item, layered=True) for item in members["sources"].items())
    lengths = {source.layers[1] - source.layers[0] for source in inputs if source.layers}
    if len(lengths) > 1:
        raise entry.wrong(f"takes {' and '.join(map(str, sorted(lengths)))} layers of its sources, not as many of each")
    base = Reference.of(members["base_model"]) if "base_model" in members else None
    return Slice(inputs, settings_of(members.get("parameters")), base, entry)


def _input(entry: Entry, *, layered: bool) -> Input:
    members = entry.members(("model", "layer_range", "parameters") if layered else ("model", "parameters"))
    if "model" not in members:
        raise entry.wrong("names no model")
    layers = None
    if layered:
        if "layer_range" not in members:
            raise entry.wrong("has no layer_range", "such as layer_range: [0, 16]")
        ends = members["layer_range"].items()
        if len(ends) != 2:
            raise members["layer_range"].expected("two numbers, the first layer and the one after the last")
        layers = (ends[0].integer(), ends[1].integer())
        if layers[0] >= layers[1]:
            raise members["layer_range"].wrong(f"from {layers[0]} to {layers[1]} there is no layer")
    return Input(Reference.of(members["model"]), layers, settings_of(members.get("parameters")), entry)


def _dtype(entry: Entry | None) -> Precision | None:
    if entry is None:
        return None
    name = entry.text().removeprefix("torch.")
    if name not in _DTYPES:
        raise entry.unknown(name, list(_DTYPES), "merges are not computed in")
    return _DTYPES[name]


def with_base(recipe: Recipe) -> Recipe:
    """The same with the base model among the inputs of every slice, as mergekit adds it to `models`."""
    if recipe.base is None:
        return recipe
    modules = []
    for module in recipe.modules:
        slices = []
        for one in module.slices:
            if all(source.layers is None for source in one.inputs) and recipe.base not in [s.model for s in one.inputs]:
                one = replace(one, inputs=(*one.inputs, Input(recipe.base, None, {}, one.entry)))
            slices.append(one)
        modules.append(replace(module, slices=tuple(slices)))
    return replace(recipe, modules=tuple(modules))


def ordered(recipes: Sequence[Recipe]) -> tuple[tuple[Recipe, tuple[str, ...]], ...]:
    """Recipes in an order in which each comes after those it uses, with the names of these."""
    by_name = {recipe.name: recipe for recipe in recipes}
    uses = {
        recipe.name: tuple(
            dict.fromkeys(one.model for one in recipe.references() if one.model in by_name and one.model is not None)
        )
        for recipe in recipes
    }
    done: dict[str | None, Recipe] = {}
    while len(done) < len(recipes):
        ready = [name for name in by_name if name not in done and all(used in done for used in uses[name])]
        if not ready:
            left = ", ".join(str(name) for name in by_name if name not in done)
            raise PlanError(f"{recipes[0].entry.file}: recipes use each other in a circle: {left}")
        done |= {name: by_name[name] for name in ready}
    return tuple((recipe, uses[name]) for name, recipe in done.items())
