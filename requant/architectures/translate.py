"""A checkpoint said in the other naming."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from requant.architectures import carried, values
from requant.architectures.card import write_card
from requant.architectures.classes import ModelClass, class_of, unsupported
from requant.architectures.classifier import base_written
from requant.architectures.general import general_metadata, generation_config
from requant.architectures.names import (
    Expected,
    MissingTensor,
    base_of,
    expected,
    find,
    find_apart,
    find_parts,
    heads,
    limit_counts,
    missing,
    unknown,
)
from requant.architectures.rules import Config, Family, Flags, Order, Rule, Sizes
from requant.architectures.runtime import OUTPUT_NEEDED
from requant.architectures.sizes import sizes_of
from requant.architectures.tied import same_values, with_embedding
from requant.encodings import Shape, rows_of
from requant.encodings.scaled import BESIDE
from requant.errors import PlanError, UnsupportedError
from requant.expressions import (
    Affine,
    Deinterleaved,
    Interleaved,
    Joined,
    Node,
    RopeOrder,
    Stacked,
    Stored,
    Transposed,
    reshaped,
)
from requant.ir import Checkpoint, Json, Naming, Tensor, flat_config
from requant.plan import Loss, Move, Translation, unchanged
from requant.sources import Source


def translate(checkpoint: Checkpoint[Tensor], naming: Naming, families: Sequence[Family]) -> Translation:
    """Names, row orders, hyperparameters and general metadata of `checkpoint` in `naming`; tokenizers are left out.

    Raises `UnsupportedError` for an unknown architecture, `PlanError` for whatever contradicts it. A checkpoint that
    has this naming already is passed on as it is.
    """
    if checkpoint.naming is naming:
        return unchanged(checkpoint)
    try:
        return _to_ggml(checkpoint, families) if naming is Naming.GGML else _to_hf(checkpoint, families)
    except (PlanError, UnsupportedError) as error:
        if checkpoint.path == Path():
            raise
        files = checkpoint.missing_hint if isinstance(error, MissingTensor) else ""
        raise type(error)(f"{checkpoint.path}: {error}", hint=files or error.hint) from error


def _to_ggml(checkpoint: Checkpoint[Tensor], families: Sequence[Family]) -> Translation:
    config = flat_config(checkpoint.config)
    model = class_of(checkpoint.config, checkpoint.architecture, families)
    if model.known:
        return _of_class(checkpoint, config, model)
    try:
        return _of_class(checkpoint, config, model)
    except (PlanError, UnsupportedError) as error:
        what = f"config.json names the class {model.name}, which is not known; as a {model.family.classes[0]}, {error}"
        raise UnsupportedError(what) from error


def _of_class(checkpoint: Checkpoint[Tensor], config: dict[str, Json], model: ModelClass) -> Translation:
    family = model.family
    losses = [*model.losses, *values.assumptions_hold(family, config)]
    tensors = _by_modern_name(family, checkpoint.tensors)
    tensors = with_embedding(family, config, tensors)
    base = base_of(family, tensors)
    tensors = _with_head(tensors, base)
    vocabulary = _vocabulary(family, config, tensors, base)
    present = {flag: any(re.search(f"{end}$", name) for name in tensors) for flag, end in family.present.items()}
    config = {**config, **present}
    settings, written = values.to_ggml(family, config | {"vocab_size": vocabulary})
    plain = {key: values.plain(typed.value) for key, typed in written.items()}
    sizes = sizes_of(plain, vocabulary)
    limit_counts(sizes, len(tensors))

    flags: dict[str, bool | Sequence[bool]] = {
        name: bool(config.get(name, default)) for name, default in family.flags.items()
    }
    flags |= {**present, **family.of_layers(plain)}
    untied, head_copy = _untied(family, config, tensors, base, model.headless)
    flags["untied"] = untied
    moves, used = [], set(head_copy)
    for item in expected(family, sizes, flags, base):
        apart = find_apart(item, tensors)
        inputs = apart or tuple(part for name in item.hf for part in find_parts(item, name, item.shape, tensors))
        used.update(tensor.name for tensor in inputs)
        used.update(item.hf)
        node = _joined(item, inputs)
        node = node if apart else _to_ggml_values(item, node, inputs[0].name, sizes)
        moves.append(Move(item.ggml, reshaped(node, item.ggml_shape)))
    if family.ggml in OUTPUT_NEEDED and not untied:
        embedding = next(move for move in moves if move.name == family.embedding)
        moves.append(replace(embedding, name="output.weight"))

    metadata = dict(written)
    for part in family.irregular:
        more = part.to_ggml(checkpoint, settings, sizes)
        metadata |= more.values
        losses += more.losses
        used |= more.used
        moves = [Move(tensor.name, Stored(tensor)) for tensor in more.tensors] + moves + [*more.moves]
    losses += _leftovers(family, [tensors[name] for name in tensors if name not in used], sizes, flags, base)
    prefixed = {family.full_key(key): typed for key, typed in metadata.items()}
    general, more_losses = general_metadata(checkpoint, family.ggml, moves)
    back = carried.unpack(checkpoint.metadata, family.ggml, vocabulary)
    back = {key: typed for key, typed in back.items() if key not in prefixed}
    losses += more_losses
    metadata = general | prefixed | back
    return Translation(checkpoint, family.ggml, tuple(moves), metadata=metadata, losses=tuple(losses))


def _to_hf(checkpoint: Checkpoint[Tensor], families: Sequence[Family]) -> Translation:
    family = _family_of_gguf(checkpoint, families)
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    plain = values.plain_values(family, checkpoint.metadata)
    embedding = tensors.get(family.embedding)
    if embedding is None:
        raise PlanError(f"tensor {family.embedding!r} is missing")
    vocabulary = rows_of(embedding.shape)
    config, known = values.to_hf(family, plain | {"vocabulary": vocabulary})
    sizes = sizes_of(known, vocabulary)
    limit_counts(sizes, len(tensors))

    told = {flag: _present(family, flag, tensors, sizes) for flag in {*family.flags, *family.present, "untied"}}
    flags: dict[str, bool | Sequence[bool]] = {**told, **family.of_layers(known)}
    base = base_written(family, tensors)
    config |= values.assumed(family) | {name: told[name] for name in family.flags}
    files: dict[str, Source] = {}
    moves: list[Move] = []
    used: set[str] = set()
    keys = {key.ggml for key in family.keys}
    for part in family.irregular:
        more = part.to_hf(known, tensors, sizes)
        config |= more.config
        files |= more.files
        used |= more.tensors
        moves += more.moves
        keys |= more.keys
    found: list[tuple[Expected, list[Node]]] = []
    for item in expected(family, sizes, flags, base):
        tensor = find(item, item.ggml, item.ggml_shape, tensors)
        used.add(item.ggml)
        if not item.rule.turn:  # else it is the second half of the tensor that the last rule has begun
            found.append((item, []))
        found[-1][1].append(reshaped(Stored(tensor), item.ggml_shape))
    moves += [move for item, nodes in found for move in _moves_to_hf(item, nodes, sizes)]
    left = [name for name in tensors if name not in used]
    if left:
        raise unknown(left, family, sizes, flags, base)
    head: dict[str, Json] = {"architectures": [family.classes[0]], "model_type": family.model_type}
    # transformers' own defaults would be ids of another vocabulary; the tokenizer knows better, if there is one
    head |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = head | config | {"vocab_size": vocabulary, "tie_word_embeddings": not told["untied"]}
    card, said = write_card(checkpoint.metadata)
    metadata, losses = carried.pack(checkpoint.metadata, {family.full_key(key) for key in keys} | said)
    files |= generation_config(checkpoint.metadata, vocabulary) | card
    return Translation(checkpoint, family.model_type, tuple(moves), config, metadata, files, tuple(losses))


def _joined(item: Expected, inputs: Sequence[Tensor]) -> Node:
    """What is stored as one expression: the tensor, its parts, or the experts as a stack."""
    nodes = tuple(Stored(tensor) for tensor in inputs)
    if len(nodes) == 1:
        shape = inputs[0].shape
        return reshaped(nodes[0], (1, *shape) if (1, *shape) in (item.shape, item.ggml_shape) else shape)
    stacked = len({tensor.shape for tensor in inputs}) == 1 and (len(nodes), *inputs[0].shape) == item.ggml_shape
    return Stacked(nodes) if stacked else Joined(nodes)


def _moves_to_hf(item: Expected, nodes: Sequence[Node], sizes: Sizes) -> list[Move]:
    if "{e}" not in item.rule.hf:
        return [Move(item.hf[0], _to_hf_values(item, nodes, sizes))]
    rows = rows_of(item.shape)
    return [
        Move(name, _to_hf_values(item, [node.section(e * rows, (e + 1) * rows) for node in nodes], sizes))
        for e, name in enumerate(item.hf)
    ]


def _to_ggml_values(item: Expected, node: Node, name: str, sizes: Sizes) -> Node:
    rule: Rule = item.rule
    upright = name == f"{item.hf[0]}.weight"  # as `find_parts` says; the shape may be square
    if rule.order is Order.ROPE:
        node = _by_outputs(node, item.ggml_shape, lambda rows: RopeOrder(rows, sizes[rule.heads]))
    elif rule.order is Order.TRANSPOSED and not upright:
        node = Transposed(node)
    if rule.turn is not None:
        turn = rule.turn
        node = _by_outputs(node, item.ggml_shape, lambda rows: Deinterleaved(rows, turn))
    return Affine(node, term=rule.add) if rule.add else node


def _to_hf_values(item: Expected, nodes: Sequence[Node], sizes: Sizes) -> Node:
    rule: Rule = item.rule
    if rule.add:
        nodes = [Affine(node, term=-rule.add) for node in nodes]
    node = nodes[0]
    if rule.turn is not None:
        node = _woven(nodes, item.shape, turned=rule.order is Order.TRANSPOSED)
    if rule.order is Order.ROPE:
        node = _by_outputs(node, item.shape, lambda rows: RopeOrder(rows, sizes[rule.heads], inverse=True))
    elif rule.order is Order.TRANSPOSED:
        node = Transposed(node)
    return reshaped(node, item.shape)


def _by_outputs(node: Node, shape: Shape, change: Callable[[Node], Node]) -> Node:
    """`change` done to rows; of a vector of outputs, or of one for each expert, to the numbers.

    shape: of the result. Vectors of one bias for each expert are told from matrices by their length, which changes.
    """
    if len(shape) > 1 and shape[-1] == node.columns:
        return change(node)
    upright = change(reshaped(node, (*node.shape, 1)))
    return reshaped(upright, upright.shape[:-1])


def _woven(nodes: Sequence[Node], shape: Shape, *, turned: bool) -> Node:
    """Rows in turn, or the numbers of vectors (see `_by_outputs`). shape: of the result, transposed if `turned`."""
    if turned or shape[-1] == nodes[0].columns:
        return Interleaved(tuple(nodes))
    upright = Interleaved(tuple(reshaped(node, (*node.shape, 1)) for node in nodes))
    return reshaped(upright, upright.shape[:-1])


def _family_of_gguf(checkpoint: Checkpoint[Tensor], families: Sequence[Family]) -> Family:
    for family in families:
        if family.ggml == checkpoint.architecture and family.claims(values.plain_values(family, checkpoint.metadata)):
            return family
    what = f"general.architecture is {checkpoint.architecture!r}, which is not supported"
    raise unsupported(what, families, lambda f: f.ggml)


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
    told = config.get("vocab_size")
    if told is not None and told != rows:
        raise PlanError(
            f"config.json: vocab_size is {told!r}, but {name!r} has {rows} rows",
            hint="the embedding was resized without its config, or the other way round",
        )
    return rows


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


def _leftovers(family: Family, left: list[Tensor], sizes: Sizes, flags: Flags, base: str) -> list[Loss]:
    """Losses for tensors that are left out on purpose; an error for unknown ones."""
    losses, strange = [], []
    for tensor in left:
        name = tensor.name
        known = next((item for item in family.ignored if re.fullmatch(item.pattern, name)), None)
        if known is None and BESIDE.fullmatch(name):
            losses.append(Loss.of_tensor(tensor, "only what runs the quantized model needs it"))
        elif known is None:
            strange.append(name)
        elif known.lost:
            losses.append(Loss.of_tensor(tensor, known.reason))
    if strange:
        raise unknown(strange, family, sizes, flags, base)
    return losses


def _present(family: Family, flag: str, tensors: Mapping[str, Tensor], sizes: Sizes) -> bool:
    """Whether a GGUF is one of this flag, by its tensors: if one layer has them, all must."""

    def found(when: str) -> bool:
        return any(
            rule.ggml.format(n=n) in tensors
            for rule in family.rules
            if when in rule.when.split("+")
            for n in (range(sizes["layers"]) if rule.layered else (0,))
        )

    without = "!" + flag
    return found(flag) or (any(without in rule.when.split("+") for rule in family.rules) and not found(without))
