"""A GGUF of a text model and one of what it sees or hears with, said as Hugging Face says the model: in one folder.

The tables of `Projector` are read backwards. That config.json then says what the GGUF said is not taken for granted:
the way to ggml is gone once more, and its keys must be those of the GGUF.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Final

from requant.architectures import index as architectures
from requant.architectures.names import Expected, find
from requant.architectures.numbers import shortest, shown
from requant.architectures.reordered import by_outputs
from requant.architectures.rules import Config, Family, Flags, Order, Sizes
from requant.architectures.values import plain
from requant.encodings import Shape
from requant.errors import PlanError, UnsupportedError
from requant.expressions import Affine, Joined, Node, RopeOrder, Stored, Transposed, reshaped
from requant.ir import PROJECTOR, Checkpoint, Json, Tensor
from requant.losses import Loss, LossKind
from requant.plan import Move, Translation
from requant.projectors import index
from requant.projectors.changes import Row
from requant.projectors.rules import OUTSIDE, PREPROCESSOR, Folder, Projector
from requant.projectors.settings import flattened, to_ggml
from requant.projectors.sizes import Sums
from requant.projectors.translate import expected, full_key
from requant.sources import Memory

#: What config.json says of the whole model, not of its text model.
_OF_ALL: Final = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
_TOKENS: Final = "tokenizer.ggml.tokens"
_HEAD: Final = "lm_head.weight"


def recognized(said: Translation, mmproj: Checkpoint[Tensor]) -> Translation:
    """The text model as that of a model that sees or hears.

    Raises `UnsupportedError` where no class is known that the two make together.
    """
    _, folder = _folder_of(mmproj, said.source.architecture)
    model = said.known
    families = architectures.named([folder.name])
    named = (one for one in families if folder.name in one.classes and one.ggml == model.family.ggml)
    return replace(said, model=replace(model, family=_inside(next(named, model.family), folder)))


def completed(said: Translation, mmproj: Checkpoint[Tensor]) -> Translation:
    """Towers and projector beside the text model, and config.json of both.

    Raises `PlanError` for whatever contradicts itself, naming tensor or key.
    """
    projector, folder = _folder_of(mmproj, said.source.architecture)
    keys, shapes = _keys(mmproj), _shapes_in_rules(projector, mmproj)
    numbers, missing = _tokens(folder, said.source)
    paths = {
        **_spoken(projector, keys),
        **{item.hf: item.values[0] for item in projector.assumptions if item.written and item.values[0] is not None},
        **folder.settings,
        **folder.told(keys, shapes),
        **numbers,
    }
    config, processor = _nested(paths)
    config = _around(config, folder, said.config)
    settings = {**flattened(config), **{PREPROCESSOR + key: value for key, value in processor.items()}}
    _check(projector, settings, keys)
    sizes = Sums(projector.sizes(keys, settings, shapes))
    present = {flag: any(re.search(end, name) for name in shapes) for flag, end in projector.present.items()}
    flags: Flags = {**projector.flags(settings), **present, **folder.flags}
    moves = _moves(projector, folder, mmproj, sizes, flags)
    text = tuple(replace(move, name=_head_of(folder)) if move.name == _HEAD else move for move in said.moves)
    files = {**said.files, "preprocessor_config.json": Memory((json.dumps(processor, indent=2) + "\n").encode())}
    source = replace(said.source, opened=(*said.source.opened, *mmproj.opened))
    said = replace(said, source=source, moves=(*text, *moves), config=config, files=files if processor else said.files)
    return said.losing(*missing)


def _folder_of(mmproj: Checkpoint[Tensor], text: str) -> tuple[Projector, Folder]:
    """What a projector makes together with a text model of this architecture."""
    if mmproj.architecture != PROJECTOR:
        raise PlanError(
            f"{mmproj.path} is no projector: its general.architecture is {mmproj.architecture!r}, not {PROJECTOR!r}",
            hint="requant convert MODEL.gguf FOLDER --with-mmproj MMPROJ.gguf",
        )
    names = ("projector_type", "vision.projector_type", "audio.projector_type")
    found = [mmproj.metadata.get(f"{PROJECTOR}.{name}") for name in names]
    kinds = [typed.value for typed in found if typed is not None and isinstance(typed.value, str)]
    fitting = [one for one in index.every() if set(kinds) & set(one.kinds)]
    keys = _keys(mmproj)
    for projector in fitting:
        shapes = _shapes_in_rules(projector, mmproj)
        for folder in projector.folders:
            if text in folder.texts and folder.suits(keys, shapes):
                return projector, folder
    others = sorted({name for one in fitting for folder in one.folders for name in folder.texts})
    known = sorted({kind for one in index.every() if one.folders for kind in one.kinds})
    raise UnsupportedError(
        f"{mmproj.path}: no model is known that a {', '.join(kinds) or 'nameless'!r} projector and a {text!r} text "
        "model make together",
        hint=f"it goes with {', '.join(others)}" if others else f"the way back is known of {', '.join(known)}",
    )


def _inside(family: Family, folder: Folder) -> Family:
    """The family of the text model, as it lies in the folder."""
    parts = tuple(replace(part, to_hf=part.seeing or part.to_hf) for part in family.irregular)
    kind = folder.text_type or (family.alone[1] if family.alone else family.model_type)
    return replace(family, model_type=kind, classes=(folder.name,), bases=(folder.base,), alone=None, irregular=parts)


def _keys(mmproj: Checkpoint[Tensor]) -> dict[str, Json]:
    """The keys of a projector as its table has them."""
    prefix = f"{PROJECTOR}."
    return {
        key.removeprefix(prefix) if key.startswith(prefix) else OUTSIDE + key: _number(plain(typed.value))
        for key, typed in mmproj.metadata.items()
    }


def _number(value: Json) -> Json:
    """Floats as short as they are written by people: what is read from a file is as long as float32 in a double."""
    if isinstance(value, list):
        return [_number(one) for one in value]
    return shortest(value) if isinstance(value, float) else value


def _spoken(projector: Projector, keys: Config) -> dict[str, Json]:
    """What single keys say, by paths into config.json; what is the text model's, its own GGUF says."""
    return {
        key.hf[0]: keys[key.ggml]
        for key in projector.keys
        if key.hf and keys.get(key.ggml) is not None and not key.hf[0].startswith("text_config.")
    }


def _shapes_in_rules(projector: Projector, mmproj: Checkpoint[Tensor]) -> dict[str, Shape]:
    """The shapes of tensors by the names that rules have for them; of layers, those of the first.

    The shapes are those of a folder wherever sizes or flags are told by them. What has not as many dimensions as its
    rule is left out here, and refused when it is looked for.
    """
    shapes = {tensor.name: tensor.shape for tensor in mmproj.tensors}
    found = {}
    for rule in projector.rules:
        shape = shapes.get(rule.ggml.format(n=0), ())
        shape = (*(1,) * (len(rule.ggml_shape) - len(shape)), *shape) if shape else shape
        if len(shape) == len(rule.ggml_shape) and 0 not in shape and "{k}" not in rule.hf:
            found[rule.hf.format(n=0)] = shape
    return found


def _tokens(folder: Folder, text: Checkpoint[Tensor]) -> tuple[dict[str, Json], list[Loss]]:
    """The numbers of tokens that stand for pictures and sounds; those that the vocabulary lacks are told."""
    typed = text.metadata.get(_TOKENS)
    if typed is None or isinstance(typed.value, bool | int | float | str):
        return {}, []
    wanted = set(folder.tokens.values())
    numbers = {str(token): n for n, token in enumerate(typed.value) if token in wanted}
    found: dict[str, Json] = {path: numbers[token] for path, token in folder.tokens.items() if token in numbers}
    detail = "{}: the GGUF has no token {!r}; transformers takes a number of its own"
    lost = [
        Loss(LossKind.SUSPECT, path, detail.format(path, token))
        for path, token in folder.tokens.items()
        if token not in numbers
    ]
    return found, lost


def _nested(paths: Mapping[str, Json]) -> tuple[dict[str, Json], dict[str, Json]]:
    """config.json and preprocessor_config.json of values by paths; None takes away all that is below."""
    config: dict[str, Json] = {}
    processor: dict[str, Json] = {}
    gone = tuple(f"{path}." for path, value in paths.items() if value is None)
    for path, value in paths.items():
        if f"{path}.".startswith(gone):
            continue
        if path.startswith(PREPROCESSOR):
            processor[path.removeprefix(PREPROCESSOR)] = value
            continue
        place, (*parents, last) = config, path.split(".")
        for parent in parents:
            inner = place.setdefault(parent, {})
            assert isinstance(inner, dict)
            place = inner
        place[last] = value
    return config, processor


def _around(config: Mapping[str, Json], folder: Folder, text: Mapping[str, Json]) -> dict[str, Json]:
    """config.json of the whole model: that of its text model is in it."""
    told = config.get("text_config")
    inner = {key: value for key, value in text.items() if key != "architectures"}
    inner |= told if isinstance(told, dict) else {}
    outer = {key: value for key, value in config.items() if key != "text_config"}
    whole = {key: text[key] for key in _OF_ALL if text.get(key) is not None}
    return {"architectures": [folder.name], "model_type": folder.model_type, **whole, **outer, "text_config": inner}


def _check(projector: Projector, settings: Config, keys: Config) -> None:
    """The way to ggml gives the keys of the GGUF; else the folder would say something else."""
    _, written = to_ggml(projector.keys, settings, prepared=True)
    for key, typed in written.items():
        made = _number(plain(typed.value))
        if keys.get(key) != made:
            there = shown(keys[key]) if key in keys else "missing"
            raise PlanError(
                f"metadata: {full_key(key)!r} is {there}, but with the rest of both files it would be {shown(made)}",
                hint="are the GGUFs of the same model?",
            )


def _moves(
    projector: Projector, folder: Folder, mmproj: Checkpoint[Tensor], sizes: Sizes, flags: Flags
) -> Iterator[Move]:
    """Every tensor of towers and projector, by the names that files of the class have."""
    tensors = {tensor.name: tensor for tensor in mmproj.tensors}
    found: list[tuple[Expected, list[Node]]] = []
    used = {rule.ggml for rule in projector.rules if any(isinstance(change, Row) for change in rule.changes)}
    for item in expected(projector, sizes, flags, len(tensors)):
        if item.ggml in used:  # a row of the text model's embedding, which has it
            continue
        used.add(item.ggml)
        if not item.rule.turn:
            found.append((item, []))
        found[-1][1].append(_part(item, find(item, item.ggml, item.ggml_shape, tensors)))
    left = [name for name in tensors if name not in used]
    if left:
        more = f"; {len(left) - 1} more are unknown" if len(left) > 1 else ""
        raise PlanError(
            f"{mmproj.path}: tensor {left[0]!r} does not belong to a {projector.name!r} projector{more}",
            hint="nothing is dropped silently",
        )
    return (Move(_spelled(item.hf[0], folder), _values(item, nodes)) for item, nodes in found)


def _part(item: Expected, tensor: Tensor) -> Node:
    """A tensor; of several that are one in HF, as the rows that it is there."""
    node = reshaped(Stored(tensor), item.ggml_shape)
    if item.rule.turn is None:
        return node
    rows = item.sizes[item.rule.among[item.rule.turn]]
    return reshaped(node, (rows, prod(node.shape) // rows))


def _values(item: Expected, nodes: Sequence[Node]) -> Node:
    rule = item.rule
    node = Joined(tuple(nodes)) if len(nodes) > 1 else nodes[0]
    node = Affine(node, term=-rule.add) if rule.add else node
    for change in reversed(rule.changes):
        node = change.to_hf(node, item.sizes)
    if rule.order is Order.ROPE:
        heads = item.sizes[rule.heads]
        node = by_outputs(node, item.shape, lambda rows: RopeOrder(rows, heads, inverse=True))
    elif rule.order is Order.TRANSPOSED:
        node = Transposed(node)
    return reshaped(node, item.shape)


def _spelled(name: str, folder: Folder) -> str:
    """What a tensor of the rules is called in files of the class."""
    for pattern, other in folder.spelled:
        name = re.sub(pattern, other, name)
    return name


def _head_of(folder: Folder) -> str:
    """The output head lies beside the text model where that lies below a name of its own."""
    before = folder.base.removesuffix("model.") if folder.base.startswith("language_model.") else ""
    return before + _HEAD
