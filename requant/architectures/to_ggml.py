"""A Hugging Face checkpoint said as ggml says it: the parts of `requant.architectures.translate`, in their order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from requant.architectures import carried, values
from requant.architectures.classes import class_of
from requant.architectures.consolidated import interleaved, is_consolidated
from requant.architectures.general import general_metadata
from requant.architectures.model import Model
from requant.architectures.names import (
    Expected,
    base_of,
    expected,
    find_apart,
    find_parts,
    heads,
    limit_counts,
    missing,
    unknown,
)
from requant.architectures.reordered import by_outputs
from requant.architectures.rules import MMPROJ, Config, Family, Flags, Ignored, Order, Rule, Sizes
from requant.architectures.runtime import OUTPUT_NEEDED
from requant.architectures.sizes import sizes_of, sizes_of_layers
from requant.architectures.tied import same_values, with_embedding
from requant.encodings import rows_of
from requant.encodings.scaled import BESIDE
from requant.errors import PlanError
from requant.expressions import (
    Affine,
    Deinterleaved,
    Joined,
    Node,
    RopeOrder,
    Slice,
    Stacked,
    Stored,
    Transposed,
    reshaped,
)
from requant.ir import Json, Tensor, flat_config, text_config
from requant.losses import Loss
from requant.plan import Move, Translation


def recognized(said: Translation, families: Sequence[Family]) -> Translation:
    """The family, by the class and the model type that config.json names."""
    found = class_of(said.source.config, said.source.architecture, families)
    family = interleaved(found.family) if is_consolidated(said.source) else found.family
    model = Model(family, "" if found.known else found.name, found.headless)
    return replace(said, architecture=found.family.ggml, model=model).losing(*found.losses)


def sized(said: Translation) -> Translation:
    """Hyperparameters as metadata, in place of config.json; and what follows from them for the table."""
    model, config = said.known, flat_config(said.source.config)
    family = model.family
    losses = values.assumptions_hold(family.assumptions, config, f"{family.ggml!r} models", "model")
    tensors = _by_modern_name(family, said.source.tensors)
    tensors = with_embedding(family, config, tensors)
    base = base_of(family, tensors)
    tensors = _with_head(tensors, base)
    config |= _tying(said.source.config, tensors)
    vocabulary = _vocabulary(family, config, tensors, base)
    present = {flag: any(re.search(f"{end}$", name) for name in tensors) for flag, end in family.present.items()}
    config |= present
    settings, written = values.to_ggml(family, config | {"vocab_size": vocabulary})
    plain = {key: values.plain(typed.value) for key, typed in written.items()}
    sizes = sizes_of(plain, vocabulary)
    limit_counts(sizes, len(tensors))
    told = {name: bool(config.get(name, default)) for name, default in family.flags.items()}
    untied, copies = _untied(family, config, tensors, base, model.headless)
    layered = family.of_layers(plain) | family.telling(tensors, sizes["layers"], base)
    flags: Flags = {**told, **present, **layered, "untied": untied}
    model = replace(model, tensors=tensors, base=base, vocabulary=vocabulary, settings=settings)
    layers = sizes_of_layers(plain, vocabulary, sizes["layers"])
    model = replace(model, sizes=sizes, layers=layers, flags=flags, used=frozenset(copies))
    metadata = {family.full_key(key): typed for key, typed in written.items()}
    return replace(said, model=model, metadata=metadata, config={}).losing(*losses)


def named(said: Translation) -> Translation:
    """One tensor for each line of the family's table."""
    model = said.known
    family, moves, used = model.family, [], set(model.used)
    factors = family.factors(model.settings)
    for item in expected(family, model.sizes, model.flags, model.base, model.layers):
        if item.rule.optional and item.hf[0] not in model.tensors:
            continue
        apart = find_apart(item, model.tensors)
        inputs = apart or tuple(part for name in item.hf for part in find_parts(item, name, item.shape, model.tensors))
        used.update(tensor.name for tensor in inputs)
        used.update(item.hf)
        node = _joined(item, inputs)
        node = node if apart else _values(item, node, inputs[0].name)
        moves.append(Move(item.ggml, reshaped(_multiplied(item.rule, item.sizes, node, factors), item.ggml_shape)))
        if item.ggml == family.embedding and family.ggml in OUTPUT_NEEDED and not model.flags["untied"]:
            head = next(rule for rule in family.rules if rule.when == "untied")
            node = _multiplied(head, item.sizes, node, factors)
            moves.append(Move("output.weight", reshaped(node, item.ggml_shape)))
    return replace(said, moves=tuple(moves), model=replace(model, used=frozenset(used)))


def completed(said: Translation) -> Translation:
    """What a family has besides its tables."""
    for part in said.known.family.irregular:
        model = said.known
        more = part.to_ggml(said.source, model.settings, model.sizes)
        metadata = {model.family.full_key(key): typed for key, typed in more.values.items()}
        moves = (*(Move(tensor.name, Stored(tensor)) for tensor in more.tensors), *said.moves, *more.moves)
        said = replace(said, moves=moves, metadata=said.metadata | metadata).losing(*more.losses)
        said = replace(said, model=replace(model, used=model.used | more.used))
    return said


def claimed(said: Translation) -> Translation:
    """Nothing is left over but what is left out on purpose."""
    model = said.known
    left = [tensor for name, tensor in model.tensors.items() if name not in model.used]
    return said.losing(*_leftovers(left, model, said.source.config))


def described(said: Translation) -> Translation:
    """General metadata, and what a GGUF said before it became a folder."""
    model, source = said.known, said.source
    general, losses = general_metadata(source, model.family.ggml, said.moves)
    back, strange = carried.unpack(source, model.family.ggml, model.vocabulary)
    back = {key: typed for key, typed in back.items() if key not in said.metadata}
    return replace(said, metadata=general | said.metadata | back, files={}).losing(*losses, *strange)


def _joined(item: Expected, inputs: Sequence[Tensor]) -> Node:
    """What is stored as one expression: the tensor, its parts, or the experts as a stack."""
    nodes = tuple(Stored(tensor) for tensor in inputs)
    if len(nodes) == 1:
        shape = inputs[0].shape
        return reshaped(nodes[0], (1, *shape) if (1, *shape) in (item.shape, item.ggml_shape) else shape)
    stacked = len({tensor.shape for tensor in inputs}) == 1 and (len(nodes), *inputs[0].shape) == item.ggml_shape
    return Stacked(nodes) if stacked else Joined(nodes)


def _values(item: Expected, node: Node, name: str) -> Node:
    rule: Rule = item.rule
    sizes = item.sizes
    upright = name == f"{item.hf[0]}.weight"  # as `find_parts` says; the shape may be square
    if rule.order is Order.ROPE and not rule.among:
        node = by_outputs(node, item.ggml_shape, lambda rows: RopeOrder(rows, sizes[rule.heads]))
    elif rule.order is Order.TRANSPOSED and not upright and not rule.among:
        node = Transposed(reshaped(node, tuple(sizes[name] for name in rule.flat)) if rule.flat else node)
    if rule.turn is not None and not rule.among:
        turn = rule.turn
        node = by_outputs(node, item.ggml_shape, lambda rows: Deinterleaved(rows, turn))
    for change in rule.changes:
        node = change.to_ggml(node if rule.among else reshaped(node, item.ggml_shape), sizes)
    if rule.turn is not None and rule.among:
        counts = [sizes[name] for name in rule.among]
        node = Slice(node, sum(counts[: rule.turn]), sum(counts[: rule.turn + 1]))
        if rule.order is Order.ROPE:
            node = by_outputs(node, item.ggml_shape, lambda rows: RopeOrder(rows, sizes[rule.heads]))
        if rule.order is Order.TRANSPOSED:
            node = Transposed(reshaped(node, tuple(sizes[name] for name in rule.flat)))
    return Affine(node, term=rule.add) if rule.add else node


def _multiplied(rule: Rule, sizes: Sizes, node: Node, factors: Mapping[str, float]) -> Node:
    """By the factors of its rows; as it is where all are 1."""
    parts, start = [], 0
    if all(factors[name] == 1 for times in rule.times for name in times.factors):
        return node
    for times in rule.times:
        end = start + sizes[times.rows] if times.rows else node.rows
        part = Slice(node, start, end) if times.rows else node
        for name in times.factors:
            part = Affine(part, factor=factors[name])
        parts.append(part)
        start = end
    return Joined(tuple(parts)) if len(parts) > 1 else parts[0]


def _by_modern_name(family: Family, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """The tensors by the names they have today."""
    found: dict[str, Tensor] = {}
    for tensor in tensors:
        name = tensor.name
        for old, new in family.renamed:
            if name.endswith(old):
                name = name.removesuffix(old) + new
        if name in found:
            raise PlanError(f"tensors {found[name].name!r} and {tensor.name!r} are the same by two names")
        found[name] = tensor
    return found


def _with_head(tensors: Mapping[str, Tensor], base: str) -> dict[str, Tensor]:
    """The tensors with a head that lies below the model's prefix under its usual name."""
    names = [] if "lm_head.weight" in tensors else [name for name in heads(base) if name in tensors]
    return {"lm_head.weight" if name in names[:1] else name: tensor for name, tensor in tensors.items()}


def _vocabulary(family: Family, config: Config, tensors: Mapping[str, Tensor], base: str) -> int:
    """Rows of the embedding; config.json must agree."""
    rule = next(rule for rule in family.rules if rule.ggml == family.embedding)
    name = rule.hf.format(base=base)
    if name not in tensors:
        raise missing(f"tensor {name!r} is missing", name, tensors)
    rows = rows_of(tensors[name].shape)
    told, multiple = config.get("vocab_size"), config.get("pad_vocab_size_multiple")
    padded = isinstance(told, int) and isinstance(multiple, int) and multiple > 0 and -(-told // multiple) * multiple
    if told is not None and rows not in (told, padded):  # the first Mambas count without the rows that fill it up
        raise PlanError(
            f"config.json: vocab_size is {told!r}, but {name!r} has {rows} rows",
            hint="the embedding was resized without its config, or the other way round",
        )
    return rows


def _tying(config: Config, tensors: Mapping[str, Tensor]) -> dict[str, Json]:
    """What the tensors say of a tied head, where a model that sees says it twice, and not the same.

    Releases of transformers since 5 go by the whole model's word and write a default beside it, older ones by the text
    model's.
    """
    whole, text = (place.get("tie_word_embeddings") for place in (config, text_config(config)))
    if isinstance(whole, bool) and isinstance(text, bool) and whole != text:
        return {"tie_word_embeddings": "lm_head.weight" not in tensors}
    return {}


def _untied(
    family: Family, config: Config, tensors: Mapping[str, Tensor], base: str, headless: bool
) -> tuple[bool, set[str]]:
    """Whether there is an output head of its own; and the head's name if it is a copy of the embedding."""
    head = next((rule.hf.format(base=base) for rule in family.rules if rule.when == "untied"), None)
    if head is None or (headless and head not in tensors):
        return False, set()
    tied = bool(config.get("tie_word_embeddings", family.tied))
    embedding = next(rule.hf.format(base=base) for rule in family.rules if rule.ggml == family.embedding)
    if not tied:
        if head in tensors:
            return True, set()
        said = "says" if "tie_word_embeddings" in config else "implies (by silence)"
        raise PlanError(
            f"tensor {head!r} is missing, and config.json {said} that the embedding is not tied to it",
            hint="if the model shares them, set tie_word_embeddings to true in config.json",
        )
    if head not in tensors:
        return False, set()
    if same_values(tensors[head], tensors[embedding]):
        return False, {head}
    raise PlanError(
        f"config.json says that {head!r} is tied to {embedding!r}, but both are stored and differ",
        hint="set tie_word_embeddings to false if the head is meant, or remove it from the checkpoint",
    )


def _why(item: Ignored, config: Config) -> str:
    """Why tensors are left out; of what sees or hears, with what makes a file of them."""
    if item.reason != MMPROJ:
        return item.reason
    from requant.projectors import index

    known = index.named(index.classes_of(config))
    return f"{MMPROJ}; {'the same command with --mmproj makes it' if known else 'requant has none for this class'}"


def _leftovers(left: Sequence[Tensor], model: Model, config: Config) -> list[Loss]:
    """Losses for tensors that are left out on purpose; an error for unknown ones."""
    losses, strange = [], []
    reasons: dict[str, str] = {}
    for tensor in left:
        name = tensor.name
        known = next((item for item in model.family.ignored if item.has(name, model.sizes["layers"])), None)
        if known is None and BESIDE.fullmatch(name):
            losses.append(Loss.of_tensor(tensor, "only what runs the quantized model needs it"))
        elif known is None:
            strange.append(name)
        elif known.lost:
            if known.reason not in reasons:
                reasons[known.reason] = _why(known, config)
            losses.append(Loss.of_tensor(tensor, reasons[known.reason]))
    if strange:
        raise unknown(strange, model.family, model.sizes, model.flags, model.base)
    return losses
