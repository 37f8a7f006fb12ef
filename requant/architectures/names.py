"""The tensors that a family expects, by name and shape, and the search for them in a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from requant.architectures.foreign import foreign
from requant.architectures.rules import Apart, Family, Flags, Order, Rule, Sizes
from requant.encodings import Shape, rows_of
from requant.errors import PlanError
from requant.ir import Tensor
from requant.sectioned import sectioned

#: Fused layers, and what exllamav2 calls their parts.
SPLIT: Final = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


@dataclass(frozen=True, slots=True)
class Expected:
    """One ggml tensor and the HF tensors it is made of: one, or one for each expert.

    shape: of each HF tensor. ggml_shape: experts that are apart in HF are stacked in front. apart: the names that other
    libraries give what they keep as ggml does. sizes: of its layer.
    """

    rule: Rule
    layer: int | None
    ggml: str
    hf: tuple[str, ...]
    shape: Shape
    ggml_shape: Shape
    sizes: Sizes
    apart: tuple[tuple[str, ...], ...] = ()

    def where(self, name: str) -> str:
        """For messages: which tensor of which layer."""
        return f"tensor {name!r}" if self.layer is None else f"tensor {name!r} (layer {self.layer})"


def expected(family: Family, sizes: Sizes, flags: Flags, base: str, layers: Sequence[Sizes] = ()) -> Iterator[Expected]:
    """Every tensor of a model of these sizes: those before the layers, layer by layer, those after them.

    layers: the sizes of each, where they differ.
    """
    rules = [_lying(rule, family, base) for rule in family.rules]
    whole = [rule for rule in rules if not rule.layered and rule.applies(flags, None)]
    before = [rule for rule in whole if not rule.ggml.startswith("output")]
    after = [rule for rule in whole if rule.ggml.startswith("output")]
    for rule in before:
        yield named(rule, None, sizes, base)
    for n in range(sizes["layers"]):
        for rule in rules:
            if rule.layered and rule.applies(flags, n):
                yield named(rule, n, layers[n] if layers else sizes, base)
    for rule in after:
        yield named(rule, None, sizes, base)


def _lying(rule: Rule, family: Family, base: str) -> Rule:
    """The rule as tensors below this prefix lie."""
    upright = family.upright and base == family.upright and rule.order is Order.TRANSPOSED
    return replace(rule, order=Order.SAME, shape=rule.ggml_shape) if upright else rule


def named(rule: Rule, n: int | None, sizes: Sizes, base: str) -> Expected:
    """The tensors of one rule in layer `n`."""

    def filled(template: str) -> tuple[str, ...]:
        if "{e}" not in template:
            return (template.format(base=base, n=n),)
        pieces = [piece.format(base=base, n=n) for piece in template.split("{e}")]  # once for hundreds of experts
        return tuple(str(e).join(pieces) for e in range(sizes[rule.each]))

    names, apart = filled(rule.hf), tuple(filled(other.name) for other in rule.apart)
    stack = (len(names),) if "{e}" in rule.hf else ()
    ggml_shape = (*stack, *(sizes[name] for name in rule.ggml_shape))
    return Expected(
        rule, n, rule.ggml.format(n=n), names, tuple(sizes[name] for name in rule.shape), ggml_shape, sizes, apart
    )


def base_of(family: Family, names: Mapping[str, Tensor]) -> str:
    """The prefix this checkpoint uses: the one under which its embedding is found, else the family's own."""
    rule = next(rule for rule in family.rules if rule.ggml == family.embedding)
    for base in (*family.bases, *([family.upright] if family.upright else [])):
        if rule.hf.format(base=base) in names:
            return base
    return family.bases[0]


def named_like(family: Family, template: str) -> re.Pattern[str]:
    """A pattern for the names that a template stands for, with the groups base, n and e."""
    bases = "|".join(re.escape(base) for base in sorted(family.bases, key=len, reverse=True))
    fields = {"base": f"(?P<base>{bases})", "n": r"(?P<n>\d{1,6})", "e": r"(?P<e>\d{1,6})"}
    pieces = re.split(r"\{(base|n|e)\}", template)
    return re.compile(
        "".join(fields[piece] if at % 2 else re.escape(piece) for at, piece in enumerate(pieces)), re.ASCII
    )


def limit_counts(sizes: Sizes, tensors: int) -> None:
    """A model cannot have more layers than tensors: stops an absurd count before anything is listed."""
    if sizes["layers"] > tensors:
        raise PlanError(f"the configuration says {sizes['layers']} layers, but there are only {tensors} tensors")


def find(item: Expected, name: str, shape: Shape, tensors: Mapping[str, Tensor]) -> Tensor:
    """The tensor of this name, of this shape."""
    tensor = tensors.get(name)
    if tensor is None:
        raise missing(f"{item.where(name)} is missing; {list(shape)} is expected", name, tensors)
    ones = (1,) * (len(shape) - len(tensor.shape))
    if (*ones, *tensor.shape) != shape:  # llama-quantize writes a matrix of one row as a row
        raise PlanError(
            f"{item.where(name)} has the shape {list(tensor.shape)}, the configuration says {list(shape)}",
            hint="config and weights belong to different models, or the tensor was cut",
        )
    return tensor


class MissingTensor(PlanError):
    """A tensor of the family is not here, under whatever name; files may tell why (`Checkpoint.missing_hint`)."""


def missing(what: str, name: str, tensors: Mapping[str, Tensor]) -> PlanError:
    """The error for a tensor that is not there: what stands in its place, if it is only called otherwise.

    what: the message. Where other tensors have the names that are expected, whoever knows the files says what may have
    become of this one.
    """
    theirs = next(((other, found) for other in tensors if (found := foreign(other))), None)
    longer = next((other for other in tensors if other.endswith(f".{name}")), None)
    shorter = next((other for other in tensors if name.endswith(f".{other}")), None)
    if theirs is not None:
        return PlanError(f"{what}; there is {theirs[0]!r}, one of {theirs[1][0]} names", hint=theirs[1][1])
    if longer is not None:
        return PlanError(f"{what}; there is {longer!r}, below a prefix that this model does not have")
    if shorter is not None:
        return PlanError(f"{what}; there is {shorter!r}, without the prefix that the others have")
    module = ".".join(name.split(".")[:2])
    if not any(other.startswith(module) for other in tensors):
        first = next(iter(tensors), "none")
        return PlanError(f"{what}; no tensor is called {module}.…, the first is {first!r}")
    return MissingTensor(what, hint="does the configuration describe another model?")


def heads(base: str) -> tuple[str, ...]:
    """What the output head is called below the prefix of its model, beside `lm_head.weight`."""
    return tuple(dict.fromkeys(f"{prefix}lm_head.weight" for prefix in (base.removesuffix("model."), base) if prefix))


def find_apart(item: Expected, tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """What lies elsewhere as in ggml, a stack or the matrices of the experts; none if it is not here.

    What has the rule's own name is told from what the rule means by its shape.
    """
    for other, names in zip(item.rule.apart, item.apart, strict=True):
        if names[0] in tensors and (names[0] != item.hf[0] or tensors[names[0]].shape != item.shape):
            shape = item.ggml_shape[1:] if "{e}" in other.name else item.ggml_shape
            if other.of > 1:
                shape = (*shape[:-2], other.of * shape[-2], shape[-1])
            found = [find(item, name, shape, tensors) for name in names]
            return tuple(part for tensor in found for part in matrices(tensor, other))
    return ()


def matrices(tensor: Tensor, other: Apart) -> list[Tensor]:
    """What a rule means of a tensor that lies elsewhere: the tensor, or its part of every matrix.

    Matrices of a stack that cannot be read in runs of rows come one by one, so that none is held whole.
    """
    height = tensor.shape[-2] if len(tensor.shape) > 1 else 1
    rows = height // other.of
    if other.of == 1 and (tensor.encoding.sliced or len(tensor.shape) < 3):
        return [tensor]
    starts = range(other.part * rows, rows_of(tensor.shape), height)
    found = [sectioned(tensor, start, start + rows) for start in starts]
    if other.of == 1 and None in found:
        return [tensor]
    if None in found:
        raise PlanError(
            f"tensor {tensor.name!r} is {tensor.encoding.label}, whose scales cannot be parted between its "
            f"{other.of} parts of {rows} rows",
            hint="make plain numbers of the source first: --to BF16 into a folder, and convert that",
        )
    return [part for part in found if part is not None]


def find_parts(item: Expected, name: str, shape: Shape, tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """The tensor of this name; or, as exllamav2 stores fused layers, those it was split into, whose rows make it up.

    What is a transposed parameter as long as it is plain numbers is a linear layer's weight, [out, in], where it is
    quantized.
    """
    if name in tensors:
        return (find(item, name, shape, tensors),)
    upright = f"{name}.weight"
    if item.rule.order is Order.TRANSPOSED and upright in tensors:
        return (find(item, upright, (*shape[:-2], shape[-1], shape[-2]), tensors),)
    module, _, layer = name.removesuffix(".weight").rpartition(".")
    split = tuple(f"{module}.{part}.weight" for part in SPLIT.get(layer, ()))
    if not split or split[0] not in tensors:
        return (find(item, name, shape, tensors),)
    rows = [tensors[part].shape[0] if part in tensors else 0 for part in split]
    rows[0] = shape[0] - sum(rows[1:])
    # the first comes last, because its rows are what the others leave: a part that is missing is then named first
    found = [find(item, part, (n, *shape[1:]), tensors) for part, n in zip(split[1:], rows[1:], strict=True)]
    return (find(item, split[0], (rows[0], *shape[1:]), tensors), *found)


def unknown(names: list[str], family: Family, sizes: Sizes, flags: Flags, base: str) -> PlanError:
    """The error for tensors that no rule knows."""
    name = names[0]
    more = f"; {len(names) - 1} more are unknown" if len(names) > 1 else ""
    hint = (
        "nothing is dropped silently: a tensor that is surely no part of the model may be removed, but what lies "
        "beside a weight may scale or turn it"
    )
    layer = re.search(r"\.(\d{1,9})\.", name)
    if layer and int(layer[1]) >= sizes["layers"]:
        hint = f"the configuration says {sizes['layers']} layers; this one is in layer {int(layer[1])}"
    n = layer[1] if layer else ""
    for rule in family.rules:
        flag = rule.when.removeprefix("!")
        off = flag in family.flags and not rule.applies(flags, None)
        if off and name == rule.hf.format(base=base, n=n, e=0):
            said = "true" if flags[flag] else "false"
            hint = f"config.json says {flag} = {said}, so transformers would not load it"
    return PlanError(f"tensor {name!r} does not belong to a {family.model_type} model{more}", hint=hint)
