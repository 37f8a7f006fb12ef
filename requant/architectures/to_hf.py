"""A GGUF said as Hugging Face says it: the parts of `requant.architectures.translate`, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod

from requant.architectures import carried, values
from requant.architectures.card import write_card
from requant.architectures.classes import unsupported
from requant.architectures.classifier import base_written
from requant.architectures.general import generation_config
from requant.architectures.model import Model
from requant.architectures.names import Expected, expected, find, limit_counts, unknown
from requant.architectures.reordered import by_outputs, woven
from requant.architectures.rules import Family, Flags, Order, Rule, Sizes
from requant.architectures.sizes import sizes_of, sizes_of_layers
from requant.encodings import rows_of
from requant.errors import PlanError, UnsupportedError
from requant.expressions import Affine, Joined, Node, RopeOrder, Stored, Transposed, reshaped
from requant.ir import PROJECTOR, Checkpoint, Json, Tensor
from requant.plan import Move, Translation, unchanged


def recognized(said: Translation, families: Sequence[Family]) -> Translation:
    """The family, by architecture and keys."""
    family = _family_of(said.source, families)
    return replace(said, architecture=family.model_type, model=Model(family))


def sized(said: Translation) -> Translation:
    """Hyperparameters as config.json; and what follows from them for the table."""
    family = said.known.family
    tensors = {tensor.name: tensor for tensor in said.source.tensors}
    plain = values.plain_values(family, said.source.metadata)
    embedding = tensors.get(family.embedding)
    if embedding is None:
        raise PlanError(f"tensor {family.embedding!r} is missing")
    vocabulary = rows_of(embedding.shape)
    config, settings = values.to_hf(family, plain | {"vocabulary": vocabulary})
    sizes = sizes_of(settings, vocabulary)
    limit_counts(sizes, len(tensors))
    layers = sizes_of_layers(settings, vocabulary, sizes["layers"])
    layered: Flags = family.of_layers(settings) | family.telling(tensors, sizes["layers"], None)
    told = {
        flag: _present(family, flag, tensors, sizes, layered) for flag in {*family.flags, *family.present, "untied"}
    }
    flags: Flags = {**told, **layered}
    config |= values.assumed(family) | {name: told[name] for name in family.flags}
    model = Model(family, tensors=tensors, base=base_written(family, tensors), vocabulary=vocabulary)
    model = replace(
        model,
        settings=settings,
        sizes=sizes,
        layers=layers,
        flags=flags,
        keys=frozenset(key.ggml for key in family.keys),
    )
    return replace(said, model=model, config=config, files={})


def named(said: Translation) -> Translation:
    """The tensors that the lines of the family's table are made of."""
    model = said.known
    found: list[tuple[Expected, list[Node]]] = []
    used = set(model.used)
    for item in _expected(model):
        tensor = find(item, item.ggml, item.ggml_shape, model.tensors)
        used.add(item.ggml)
        if not item.rule.turn:  # else it is the second half of the tensor that the last rule has begun
            found.append((item, []))
        found[-1][1].append(_stored(item, tensor))
    moves = tuple(move for item, nodes in found for move in _moves(item, nodes))
    return replace(said, moves=moves, model=replace(model, used=frozenset(used)))


def _expected(model: Model) -> Iterator[Expected]:
    """Every tensor of the model; of those that it may have or not, what is there."""
    items = expected(model.family, model.sizes, model.flags, model.base, model.layers)
    return (item for item in items if not item.rule.optional or item.ggml in model.tensors)


def unfitting(checkpoint: Checkpoint[Tensor], families: Sequence[Family]) -> str:
    """The first thing in which keys, names and shapes of a GGUF are not what the family's table says; "" for nothing.

    Tensors that the table does not know are no part of this, nor are families that are none of ours.
    """
    try:
        model = sized(recognized(unchanged(checkpoint), families)).known
        for item in _expected(model):
            find(item, item.ggml, item.ggml_shape, model.tensors)
    except UnsupportedError:
        return ""
    except PlanError as error:
        return str(error)
    return ""


def completed(said: Translation) -> Translation:
    """What a family has besides its tables."""
    first: list[Move] = []
    for part in said.known.family.irregular:
        model = said.known
        more = part.to_hf(model.settings, model.tensors, model.sizes)
        first += more.moves
        model = replace(model, used=model.used | more.tensors, keys=model.keys | more.keys)
        said = replace(said, model=model, config={**said.config, **more.config})
        said = replace(said, files={**said.files, **more.files})
    return replace(said, moves=(*first, *said.moves))


def claimed(said: Translation) -> Translation:
    """Nothing is left over."""
    model = said.known
    left = [name for name in model.tensors if name not in model.used]
    if left:
        raise unknown(left, model.family, model.sizes, model.flags, model.base)
    return said


def described(said: Translation) -> Translation:
    """What model config.json is of, the model card, and whatever else a GGUF says, which comes back from a folder."""
    model, source = said.known, said.source
    family = model.family
    class_name, model_type = family.alone or (family.classes[0], family.model_type)
    head: dict[str, Json] = {"architectures": [class_name], "model_type": model_type}
    # transformers' own defaults would be ids of another vocabulary; the tokenizer knows better, if there is one
    head |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = head | said.config | {"vocab_size": model.vocabulary, "tie_word_embeddings": not model.flags["untied"]}
    card, told = write_card(source.metadata)
    kept = carried.pack(source.metadata, {family.full_key(key) for key in model.keys} | told)
    files = {**said.files, **generation_config(source.metadata, model.vocabulary), **card, **kept.files}
    return replace(said, config=config, metadata=kept.metadata, files=files).losing(*kept.losses)


def _moves(item: Expected, nodes: Sequence[Node]) -> list[Move]:
    if "{e}" not in item.rule.hf:
        return [Move(item.hf[0], _values(item, nodes))]
    rows = rows_of(item.shape)
    return [
        Move(name, _values(item, [node.section(e * rows, (e + 1) * rows) for node in nodes]))
        for e, name in enumerate(item.hf)
    ]


def _stored(item: Expected, tensor: Tensor) -> Node:
    """A tensor as the table has it; of several that are one in HF, each as rows."""
    node = reshaped(Stored(tensor), item.ggml_shape)
    if not item.rule.among:
        return node
    node = Transposed(node) if item.rule.order is Order.TRANSPOSED else node
    if item.rule.order is Order.ROPE:
        heads = item.sizes[item.rule.heads]
        node = by_outputs(node, item.ggml_shape, lambda rows: RopeOrder(rows, heads, inverse=True))
    return reshaped(node, (prod(node.shape[:-1]), node.shape[-1]))


def _values(item: Expected, nodes: Sequence[Node]) -> Node:
    rule: Rule = item.rule
    sizes = item.sizes
    if rule.add:
        nodes = [Affine(node, term=-rule.add) for node in nodes]
    node = nodes[0]
    if rule.among:
        node = Joined(tuple(nodes))
    for change in reversed(rule.changes):
        node = change.to_hf(node, sizes)
    if rule.turn is not None and not rule.among:
        node = woven(nodes, item.shape, turned=rule.order is Order.TRANSPOSED)
    if rule.order is Order.ROPE and not rule.among:
        node = by_outputs(node, item.shape, lambda rows: RopeOrder(rows, sizes[rule.heads], inverse=True))
    elif rule.order is Order.TRANSPOSED and not rule.among:
        node = Transposed(node)
    return reshaped(node, item.shape)


def _family_of(checkpoint: Checkpoint[Tensor], families: Sequence[Family]) -> Family:
    names = {tensor.name for tensor in checkpoint.tensors}
    for family in families:
        known = family.ggml == checkpoint.architecture and family.lacks not in names
        if known and family.claims(values.plain_values(family, checkpoint.metadata)):
            return family
    if checkpoint.architecture == PROJECTOR:
        raise UnsupportedError(
            "a projector (what sees or hears) makes no folder alone: that needs its text model, too",
            hint=f"requant convert MODEL.gguf FOLDER --with-mmproj {checkpoint.path.name or 'MMPROJ.gguf'}",
        )
    what = f"general.architecture is {checkpoint.architecture!r}, which is not supported"
    raise unsupported(what, families, lambda f: f.ggml)


def _present(family: Family, flag: str, tensors: Mapping[str, Tensor], sizes: Sizes, layered: Flags) -> bool:
    """Whether a GGUF is one of this flag, by its tensors: if one layer has them, all must.

    layered: the flags of each layer, which are known.
    """

    without = "!" + flag

    def telling(when: str, other: str) -> list[Rule]:
        """Those that apply under one of two conditions; what is there under both tells nothing."""
        either = {rule.ggml for rule in family.rules if other in rule.when.split("+")}
        return [rule for rule in family.rules if when in rule.when.split("+") and rule.ggml not in either]

    def found(rules: list[Rule]) -> bool:
        return any(
            rule.ggml.format(n=n) in tensors
            for rule in rules
            for n in (range(sizes["layers"]) if rule.layered else (0,))
            if rule.may_apply(layered, n if rule.layered else None)
        )

    against = telling(without, flag)
    return found(telling(flag, without)) or (bool(against) and not found(against))
