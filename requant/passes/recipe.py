"""What every tensor of a GGUF becomes: the mix that a recipe is, and departures from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from requant import companions
from requant.encodings import Blocks, Dense, Encoding
from requant.errors import PlanError
from requant.importance import Importance
from requant.ir import PROJECTOR, Checkpoint, Naming, Tensor, Typed
from requant.passes.passing import Fact
from requant.passes.steps import stored_encoding
from requant.plan import Translation
from requant.recipes import (
    Facts,
    Overrides,
    Recipe,
    Wanted,
    check_importance,
    choose_converted,
    choose_encodings,
    fitted,
    overridden,
    recipe_named,
    unused_overrides,
    unused_roles,
)


@dataclass(frozen=True, slots=True)
class Mix:
    """Every tensor gets the type that recipe and options give it.

    recipe, overrides, key_values: as the user gives them. importance: by the names of the source's tensors.
    like: a GGUF whose tensors' types are copied. keep_split: tensors are counted as they lie in the source's files.
    rehearsal: the plan will not be run, so that it may lack importance data.
    """

    name: ClassVar = "types"
    needs: ClassVar = frozenset({Fact.NAMED})
    ensures: ClassVar = frozenset({Fact.TYPED})
    recipe: str
    overrides: Overrides = Overrides()
    importance: Importance | None = None
    key_values: tuple[tuple[str, Typed], ...] = ()
    like: Checkpoint[Tensor] | None = None
    keep_split: bool = False
    rehearsal: bool = False

    def __call__(self, said: Translation) -> Translation:
        """Raises `PlanError` for a recipe that is none, and for types that these tensors or data do not allow."""
        recipe, wanted = ggml_recipe(self.recipe), wanted_by(said)
        _refuse_others(self.overrides)
        facts = Facts(said.architecture, overridden(said.metadata, fitted(said.metadata, self.key_values)))
        overrides, importance = self.overrides, self._renamed(said)
        if self.like is not None:
            overrides = replace(overrides, like=_types_of(self.like, wanted))
        # a projector that is one already is made anew, by the rules that know what llama.cpp computes with
        if said.source.naming is Naming.HF or (said.architecture == PROJECTOR and recipe.main is not None):
            choices = choose_converted(recipe, wanted, facts, overrides, importance)
        else:
            choices = choose_encodings(recipe, wanted, facts, overrides, importance, keep_split=self.keep_split)
        losses = [loss for want, choice in zip(wanted, choices, strict=True) if (loss := choice.loss(want.name))]
        losses += unused_overrides(self.overrides, wanted)
        losses += unused_roles(recipe, self.overrides, wanted)
        losses += check_importance(recipe, wanted, choices, importance, rehearsal=self.rehearsal)
        encodings = tuple(choice.encoding for choice in choices)
        return replace(said, encodings=encodings, importance=importance).losing(*losses)

    def _renamed(self, said: Translation) -> Importance | None:
        """Importance by the names of the output: layers that come after a pruned one are numbered anew."""
        if self.importance is None or said.source.naming is Naming.HF:
            return self.importance
        names = {move.inputs[0].name: move.name for move in said.moves}
        return self.importance.renamed(names.get)


def _types_of(like: Checkpoint[Tensor], wanted: Sequence[Wanted]) -> dict[str, Encoding]:
    """Type by tensor of the GGUF to be like; `PlanError` if it is none, or has no tensor that is wanted."""
    if like.naming is not Naming.GGML:
        raise PlanError(f"{like.path} is no GGUF, whose tensors' types could be copied (--like)")
    if not any(want.name in like for want in wanted):
        raise PlanError(
            f"{like.path} has none of this model's tensors: their types are not copied (--like)",
            hint="take a GGUF of the same model",
        )
    return {name: tensor.encoding for name, tensor in like.items()}


def ggml_recipe(name: str) -> Recipe:
    """The recipe a user means; raises `PlanError`, which tells what only Hugging Face folders can be."""
    try:
        return recipe_named(name)
    except PlanError as error:
        from requant.schemes import SCHEMES

        if name.upper().split("-")[0] not in SCHEMES:
            raise
        raise PlanError(f"no GGUF can be {name}: Hugging Face folders are", hint=error.hint) from None


def wanted_by(said: Translation) -> list[Wanted]:
    """The tensors as recipes look at them: without scales that a GGUF keeps beside them."""
    names = {move.name for move in said.moves}
    alone = [companions.bare(move, said.architecture, names) for move in said.moves]
    return [
        Wanted(move.name, move.shape, stored_encoding(other or move))
        for move, other in zip(said.moves, alone, strict=True)
    ]


def _refuse_others(overrides: Overrides) -> None:
    """`PlanError` for types that only folders have."""
    for regex, encoding in overrides.tensor_types:
        if not isinstance(encoding, Blocks | Dense):
            raise PlanError(
                f"--tensor-type {regex}={encoding.label}: no tensor of a GGUF can be stored so",
                hint="such types are for folders that become of that kind: --to MLX-4, --to W4A16",
            )
