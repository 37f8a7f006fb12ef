"""Several models to one, in any format to any format: a recipe planned as a conversion of a model not yet computed.

The merged model is described as a Hugging Face checkpoint whose tensors are stand-ins; the passes of a conversion name,
type and place them, and one more pass puts the computation in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from requant.encodings import DENSE, Dense, Encoding
from requant.errors import PlanError
from requant.expressions import Node
from requant.ir import QUANTIZATION_FILES, Checkpoint, Json, Naming, Tensor
from requant.layout import Format
from requant.losses import Loss
from requant.merging import card, chat
from requant.merging.model import Model
from requant.merging.modules import config_of
from requant.merging.narrowed import as_stored
from requant.merging.planning import Merge, Result
from requant.merging.recipe import Recipe, ordered, with_base
from requant.merging.reference import Reference
from requant.merging.vocabularies import Tokens, tokens_of
from requant.operations.convert import LISTS, Request, check_like, check_vocabulary
from requant.passes import planned
from requant.passes.graft import Graft, named_by, stand_in, with_graft
from requant.plan import Plan, unchanged
from requant.sources import Memory, Source

#: Files of a model that say what the result is not, or that are said anew.
_LEFT: Final = frozenset(
    {"README.md", "mergekit_config.yml", "gguf_metadata.json", "model.safetensors.index.json", *QUANTIZATION_FILES}
)
_RECIPE: Final = "merge_recipe.yml"
_CARD: Final = "README.md"
#: Files that tell how a model was made, which another made of it does not have.
TOLD: Final = frozenset({_CARD, _RECIPE})


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asks for besides the recipe.

    seed: of random methods. mixed: whether models of different families may be merged. conversion: as for `convert`.
    """

    seed: int = 0
    mixed: bool = False
    conversion: Request = field(default_factory=Request)


def plan_merge(
    recipes: Sequence[Recipe],
    opened: Callable[[Reference], Model],
    target: Format,
    destination: Path,
    options: Options,
) -> Plan:
    """Decide how recipes, which may use each other, become `destination`; raises `PlanError` for whatever contradicts.

    opened: the model that a recipe names. What a recipe makes for another one is not written: it is computed where it
    is needed, and rounded as if it had been.
    """
    final, made = _final(recipes), dict[Reference, Model]()

    def model(reference: Reference) -> Model:
        if reference not in made:
            made[reference] = opened(reference)
        return made[reference]

    for recipe, _ in ordered(recipes):
        described = _merged(recipe, model, destination, options)
        if recipe is final:
            return _planned(described, target, destination, options)
        reference = Reference(str(recipe.name))
        made[reference] = described.as_model(reference)
    raise AssertionError("the final recipe is one of them")


def described(recipes: Sequence[Recipe], opened: Callable[[Reference], Model]) -> tuple[Checkpoint[Tensor], Graft]:
    """What one recipe makes, as a model whose tensors stand for others, and what computes them; for `compare`."""
    (recipe,) = recipes
    found = _merged(recipe, opened, Path(str(recipe.references()[0])), Options())
    files = {name: body for name, body in found.source.files.items() if name not in TOLD}
    first = found.models[0].source
    metadata = first.metadata if first.naming is Naming.HF else {}
    return replace(found.source, files=files, metadata=metadata), Graft(found.values)


def _final(recipes: Sequence[Recipe]) -> Recipe:
    """The one that no other uses: without a name, or the last."""
    used = {name for _, names in ordered(recipes) for name in names}
    left = [recipe for recipe in recipes if recipe.name is None or recipe.name not in used]
    if len(left) > 1:
        names = ", ".join(str(recipe.name or "the one without a name") for recipe in left)
        raise PlanError(f"{left[0].entry.file}: recipes that no other uses: {names}", hint="keep one of them in a file")
    return left[0]


@dataclass(frozen=True, slots=True)
class Described:
    """A merge as a model: its description, what computes it, and what is told of it."""

    recipe: Recipe
    source: Checkpoint[Tensor]
    values: Mapping[str, Node]
    models: tuple[Model, ...]
    inputs: list[Json]
    losses: tuple[Loss, ...]

    def as_model(self, reference: Reference) -> Model:
        """As an input of another merge, with numbers as they would be stored."""
        stands = self.source.tensors
        tensors = {tensor.name: as_stored(self.values[tensor.name], tensor.encoding) for tensor in stands}
        files = {name: source for name, source in self.source.files.items() if name not in TOLD}
        return Model(reference, replace(self.source, files=files), self.source.config, files, tensors)


def _merged(recipe: Recipe, opened: Callable[[Reference], Model], destination: Path, options: Options) -> Described:
    """One recipe."""
    recipe = with_base(recipe)
    models = {reference: opened(reference) for reference in recipe.references()}
    order = tuple(models.values())
    _same_families(recipe, order, options.mixed)
    tokens = tokens_of(recipe, order)
    result = Merge(recipe, models, options.seed, tokens.alignment, tokens.models).result()
    inputs = card.inputs_of(order)
    about = card.card(recipe, order, inputs, destination.stem or "merge", options.seed)
    source, values = _described(recipe, order, result, tokens, about)
    losses = (*_input_losses(order), *tokens.losses, *result.losses)
    return Described(recipe, replace(source, path=named_by(destination)), values, order, inputs, losses)


def _planned(described: Described, target: Format, destination: Path, options: Options) -> Plan:
    """The merge as a conversion."""
    request = options.conversion
    if target.naming is Naming.GGML:
        told = card.key_values(described.recipe, described.inputs, options.seed)
        request = replace(request, key_values=(*told, *request.key_values))
    check_vocabulary(request, Naming.HF, target)
    check_like(request, target)
    passes = LISTS[Naming.HF, target.naming](request, target, destination)
    plan = planned(with_graft(passes, described.values), unchanged(described.source))
    return replace(plan, losses=(*described.losses, *plan.losses))


def _input_losses(models: Sequence[Model]) -> list[Loss]:
    return [replace(loss, detail=f"of {model.label}: {loss.detail}") for model in models for loss in model.losses]


def _same_families(recipe: Recipe, models: Sequence[Model], mixed: bool) -> None:
    types = {model.label: str(model.value("model_type")) for model in models}
    if len(set(types.values())) > 1 and not mixed:
        told = ", ".join(f"{label} is {kind}" for label, kind in types.items())
        raise PlanError(
            f"{recipe.entry.file}: the models are of different families: {told}",
            hint="--allow-crimes merges them all the same, if their tensors agree",
        )


def _described(
    recipe: Recipe, models: Sequence[Model], result: Result, tokens: Tokens, about: Source
) -> tuple[Checkpoint[Tensor], dict[str, Node]]:
    """The merged model as a checkpoint of stand-ins, and what each stands for."""
    first = models[0]
    layers = {stack: [(model.config, n) for model, n in made] for stack, made in result.layers.items()}
    config = config_of(first.config, first.tensors, layers)
    config = _with(config, "vocab_size", tokens.rows) if tokens.rows else config
    config = _with(config, "tie_word_embeddings", result.tied)
    own = first.dtype
    tensors = tuple(stand_in(name, node, _encoding(recipe, node, own)) for name, node in result.tensors.items())
    files = {name: source for name, source in first.files.items() if name not in _LEFT}
    files |= tokens.files
    if recipe.chat_template is not None:
        files = chat.with_template(files, chat.template_of(recipe.chat_template, models))
    files |= {_CARD: about, _RECIPE: Memory(recipe.text.encode("utf-8", "surrogateescape"))}
    architecture = str(first.value("model_type") or "")
    opened = tuple(file for model in models for file in model.source.opened)
    source: Checkpoint[Tensor] = Checkpoint(Naming.HF, architecture, tensors, config, {}, files, opened=opened)
    return source, dict(result.tensors)


def _with(config: Mapping[str, Json], key: str, value: Json) -> dict[str, Json]:
    """The config with a value where it has it: for models that also see, in the text model's."""
    text = config.get("text_config")
    if isinstance(text, dict) and key not in config:
        return {**config, "text_config": {**text, key: value}}
    return {**config, key: value}


def _encoding(recipe: Recipe, node: Node, own: Dense) -> Encoding:
    """How a tensor of the result is stored unless the user asks for a type."""
    leaves = list(node.encodings())
    chosen = recipe.out_dtype or recipe.dtype
    if any(isinstance(encoding, Dense) and not encoding.dtype.is_float for encoding in leaves):
        return leaves[0]
    if chosen is not None:
        return chosen.encoding
    if len(leaves) == 1 and (node.verbatim is not None or node.holds(leaves[0])):
        return leaves[0]
    dense = [encoding for encoding in leaves if isinstance(encoding, Dense)]
    if len(dense) < len(leaves):
        return own
    return dense[0] if len(dense) == 1 else DENSE["F32"]
