"""One encoding for each tensor, with the reason for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from requant.encodings import BLOCKS, F16, Blocks, Dense, Encoding, Shape, columns_of
from requant.errors import PlanError
from requant.importance import Importance
from requant.losses import Loss, LossKind
from requant.recipes.facts import Facts, Model, model_of
from requant.recipes.mixtures import Seen, mixed
from requant.recipes.names import PER_LAYER_EMBEDDING, Role, dimensions, file_order, role_of, why_kept
from requant.recipes.options import Overrides, compiled
from requant.recipes.table import Recipe


@dataclass(frozen=True, slots=True)
class Wanted:
    """A tensor of the output in GGML naming; `encoding` is how it is stored now."""

    name: str
    shape: Shape
    encoding: Encoding


@dataclass(frozen=True, slots=True)
class Choice:
    """What a tensor becomes.

    reason: why it is not what most tensors become; None when it is.
    asked: the encoding that was asked for, when `encoding` is another one; None when nothing was substituted.
    """

    encoding: Encoding
    reason: str | None = None
    asked: Encoding | None = None

    def loss(self, name: str) -> Loss | None:
        """The substitution, if this is one."""
        if self.asked is None:
            return None
        return Loss(LossKind.SUBSTITUTED, name, f"{self.encoding.label} instead of {self.asked.label}: {self.reason}")


#: What takes the place of a type whose blocks do not fit the rows (`tensor_type_fallback`). llama.cpp has no answer
#: for Q1_0 and refuses; NVFP4 is no mix of its own there, and the other 4-bit float is the nearest here.
_FALLBACKS: Final = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "NVFP4": "MXFP4",
}


def choose_encodings(
    recipe: Recipe,
    tensors: Sequence[Wanted],
    facts: Facts,
    overrides: Overrides | None = None,
    importance: Importance | None = None,
    *,
    keep_split: bool = False,
) -> tuple[Choice, ...]:
    """What llama-quantize makes of each tensor of a GGUF, in the order of `tensors`.

    importance: only whether there is one matters here; `check_importance` checks that it suffices.
    keep_split: go through the tensors as they lie in their files instead of in llama.cpp's order, which shifts the
        layer numbers that some rules count.
    One thing differs from llama-quantize: `overrides` also hold for the dense recipes and COPY, where it ignores most
    of them. Raises `PlanError` when a tensor cannot be stored at all, or metadata and names contradict each other.
    """
    overrides = overrides or Overrides()
    names = [tensor.name for tensor in tensors]
    by_name = {tensor.name: tensor for tensor in tensors}
    model = model_of(facts, names, has_importance=importance is not None)
    seen = Seen()
    chosen = {
        name: _choose(recipe, by_name[name], model, overrides, seen)
        for name in (names if keep_split else file_order(names))
    }
    return tuple(chosen[name] for name in names)


def unused_overrides(overrides: Overrides, tensors: Sequence[Wanted]) -> list[Loss]:
    """What `--tensor-type` asks of tensors that are not there: most likely a name that is written wrongly."""
    return [
        Loss(LossKind.SUBSTITUTED, f"--tensor-type {regex}={encoding.label}", "no tensor has such a name")
        for regex, encoding in overrides.tensor_types
        if not any(compiled(regex).search(tensor.name) for tensor in tensors)
    ]


def unused_roles(recipe: Recipe, overrides: Overrides, tensors: Sequence[Wanted]) -> list[Loss]:
    """What is asked of the output or the token embeddings, where there are none that it holds for.

    A tied embedding takes the type of the output only from a recipe that mixes, and unless it has a type of its own.
    """
    roles = {role_of(tensor.name) for tensor in tensors}
    embedded = Role.TOKEN_EMBEDDING in roles
    stands = embedded and recipe.is_quantized and not overrides.pure and overrides.token_embedding is None
    output = Role.OUTPUT in roles
    asked = {
        "--output-tensor-type": overrides.output is not None and not output and not stands,
        "--leave-output-tensor": not overrides.quantize_output and not output,
        "--token-embedding-type": overrides.token_embedding is not None and not embedded,
    }
    return [Loss(LossKind.SUBSTITUTED, option, "there is no such tensor") for option, idle in asked.items() if idle]


def _choose(recipe: Recipe, tensor: Wanted, model: Model, overrides: Overrides, seen: Seen) -> Choice:
    """One tensor; `seen` moves on exactly when llama.cpp's counters do."""
    name = tensor.name
    if overrides.like is not None and not _is_named(name, overrides) and name in overrides.like:
        return fitted(overrides.like[name], tensor, "as in the file to be like")
    main = recipe.main or tensor.encoding
    kept = why_kept(name, tensor.shape, model.architecture, overrides.quantize_output)
    if kept is None and not _is_number(tensor.encoding):
        kept = "integers"
    if kept is not None:
        named = overrides.named(name) if dimensions(tensor.shape) > 1 and "_norm.weight" not in name else None
        return Choice(tensor.encoding, kept, None if named == tensor.encoding else named)
    role = role_of(name)
    named = overrides.named(name)
    if overrides.token_embedding and role is Role.TOKEN_EMBEDDING and not (name == PER_LAYER_EMBEDDING and named):
        return fitted(overrides.token_embedding, tensor, "--token-embedding-type")
    if overrides.output and role is Role.OUTPUT:
        return fitted(overrides.output, tensor, "--output-tensor-type")
    if named:
        return fitted(named, tensor, "--tensor-type")
    if not recipe.is_quantized or overrides.pure:
        return fitted(main, tensor)
    if overrides.output and role is Role.TOKEN_EMBEDDING and model.tied:
        return fitted(overrides.output, tensor, "--output-tensor-type, for the embedding stands for the output")
    return _mixed(recipe, main, tensor, role, model, seen)


def _mixed(recipe: Recipe, main: Encoding, tensor: Wanted, role: Role, model: Model, seen: Seen) -> Choice:
    """A tensor on which nobody but the recipe has a say."""
    matrices = tensor.shape[-3] if len(tensor.shape) > 2 else 1
    label = mixed(recipe.name, main.label, tensor.name, role, matrices, model, seen)
    if label is None or label == main.label:
        return fitted(main, tensor)
    encoding = BLOCKS[label]
    stands_for_output = role is Role.OUTPUT or (role is Role.TOKEN_EMBEDDING and model.tied)
    if stands_for_output and not fits(main, tensor.shape) and label != "Q8_0":
        # judged by the blocks of most tensors, not by those of the output's own type
        return fitted(BLOCKS["Q8_0"], tensor, _misfit(main, tensor.shape), encoding)
    return fitted(encoding, tensor, role.value)


def _is_named(name: str, overrides: Overrides) -> bool:
    """Whether an option speaks of this very tensor, and so beats `like`."""
    role = role_of(name)
    if (overrides.token_embedding and role is Role.TOKEN_EMBEDDING) or (overrides.output and role is Role.OUTPUT):
        return True
    return overrides.named(name) is not None or (name == "output.weight" and not overrides.quantize_output)


def _is_number(encoding: Encoding) -> bool:
    return not isinstance(encoding, Dense) or encoding.dtype.is_float


def fits(encoding: Encoding, shape: Shape) -> bool:
    """Whether the rows of a tensor are whole blocks."""
    return not isinstance(encoding, Blocks) or columns_of(shape) % encoding.values == 0


def _misfit(encoding: Encoding, shape: Shape) -> str:
    values = encoding.values if isinstance(encoding, Blocks) else 1
    return f"rows of {columns_of(shape)} are no multiple of {values}"


def fitted(encoding: Encoding, tensor: Wanted, reason: str | None = None, asked: Encoding | None = None) -> Choice:
    """`encoding`, or what llama.cpp takes in its place when the rows are not whole blocks of it.

    asked: what was wanted in the first place, if `encoding` is a substitute already.
    """
    if isinstance(encoding, Blocks) and not fits(encoding, tensor.shape):
        misfit = _misfit(encoding, tensor.shape)
        fallback = _FALLBACKS.get(encoding.label)
        if fallback is None and encoding.values > 32:
            raise PlanError(
                f"tensor {tensor.name} cannot be {encoding.label}: {misfit}, and nothing is near enough to stand in",
                hint="choose its type with --tensor-type, or another recipe",
            )
        substitute: Encoding = BLOCKS[fallback] if fallback else F16
        return Choice(substitute if fits(substitute, tensor.shape) else F16, misfit, asked or encoding)
    return Choice(encoding, reason, asked)
