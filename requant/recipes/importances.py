"""Whether an importance matrix suffices for a plan, and what it leaves open.

Source: `tensor_requires_imatrix` and the main loop of llama.cpp's quantizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from requant.encodings import Blocks, Encoding
from requant.errors import PlanError
from requant.importance import Importance
from requant.losses import Loss, LossKind
from requant.recipes.choose import Choice, Wanted
from requant.recipes.names import Role, role_of
from requant.recipes.table import Recipe

_NEEDED_BY: Final = frozenset({"IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S"})

#: Types whose encoders look at importance; the others pay no heed to it, in ggml and here.
_USED_BY: Final = _NEEDED_BY | frozenset(
    ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ3_S", "IQ4_NL", "IQ4_XS")
)


def needs_importance(name: str, encoding: Encoding, recipe: Recipe) -> bool:
    """Whether llama-quantize refuses to make this tensor without importance data, for it would be garbage."""
    if isinstance(encoding, Blocks) and encoding.needs_importance:
        return True
    if role_of(name) in (Role.TOKEN_EMBEDDING, Role.OUTPUT):
        return False
    return encoding.label in _NEEDED_BY or (encoding.label == "Q2_K" and recipe.name == "Q2_K_S")


def missing_importance(
    recipe: Recipe, tensors: Sequence[Wanted], choices: Sequence[Choice], importance: Importance | None
) -> tuple[str, ...]:
    """Names of the tensors that need importance data and have none that fits."""
    return tuple(
        tensor.name
        for tensor, choice in zip(tensors, choices, strict=True)
        if choice.encoding != tensor.encoding
        and needs_importance(tensor.name, choice.encoding, recipe)
        and (importance is None or importance.weights_for(tensor.name, tensor.shape) is None)
    )


def check_importance(
    recipe: Recipe,
    tensors: Sequence[Wanted],
    choices: Sequence[Choice],
    importance: Importance | None,
    *,
    rehearsal: bool = False,
) -> tuple[Loss, ...]:
    """What is quantized without the importance data that was given, or with a part of it.

    rehearsal: nothing will be written, so that a type that needs data and has none is only told.
    Raises `PlanError` where llama-quantize gives up: a type that needs data and has none, or an entry of a wrong
    length (which it overlooks for token embeddings only, where it tells).
    """
    users = [
        tensor
        for tensor, choice in zip(tensors, choices, strict=True)
        if choice.encoding != tensor.encoding and choice.encoding.label in _USED_BY
    ]
    if importance is not None and not users:
        return (Loss(LossKind.IMPORTANCE_UNUSED, "--imatrix", "nothing is rounded to a type that heeds it"),)
    problems = [] if importance is None else [_told(tensor, importance) for tensor in users]
    missing = missing_importance(recipe, tensors, choices, importance)
    if missing and not rehearsal:
        more = f" and {len(missing) - 1} other tensors" if len(missing) > 1 else ""
        raise PlanError(
            f"{recipe.name} needs an importance matrix for {missing[0]}{more}",
            hint="give one with --imatrix (llama-imatrix makes it), or choose a type of more bits",
        )
    needed = [Loss(LossKind.IMPORTANCE_UNUSED, name, "its type needs an importance matrix") for name in missing]
    return (*needed, *(loss for loss in problems if loss is not None and loss.subject not in missing))


def _told(tensor: Wanted, importance: Importance) -> Loss | None:
    """What keeps a tensor from the importance data it could use; raises `PlanError` for data of a wrong length."""
    role = role_of(tensor.name)
    detail = importance.mismatch(tensor.name, tensor.shape)
    if detail and role is not Role.TOKEN_EMBEDDING:
        raise PlanError(
            f"the importance matrix does not belong to this model: for {tensor.name}, {detail}",
            hint="leave the entry out with --exclude-weights, or measure the matrix on this model",
        )
    if not detail and tensor.name not in importance.entries:
        if role in (Role.TOKEN_EMBEDDING, Role.OUTPUT):  # llama-imatrix measures neither unless it is asked
            return None
        detail = "the importance matrix has no entry for it"
    if not detail and (count := importance.unreached(tensor.name)):
        detail = f"no token reached {count} of its experts: all their columns count alike"
    return Loss(LossKind.IMPORTANCE_UNUSED, tensor.name, detail) if detail else None
