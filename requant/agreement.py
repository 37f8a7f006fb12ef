"""What a GGUF's metadata say beside what its tensors are: where they differ, llama.cpp refuses the file or misreads it.

Two looks are taken: rules that hold for every architecture, whose names of tensors mean the same everywhere; and, for a
family that is known, the shape that its table gives each tensor. Facts: llama.cpp b11549, `load_hparams` and
`load_vocab` of src/llama-model.cpp, `create_tensor` and `get_key_or_arr` of src/llama-model-loader.cpp, and
src/models/*.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from requant.encodings import Shape
from requant.errors import PlanError
from requant.ir import PROJECTOR, Checkpoint, Naming, Tensor, TensorSpec, Typed
from requant.printable import printable
from requant.recipes.key_kinds import KIND_WORDS, kind_of

#: What llama.cpp finds no model without.
_NEEDED: Final = ("context_length", "embedding_length", "block_count")
#: Lists that have an item for each layer where they are lists.
_OF_LAYERS: Final = (
    "attention.head_count",
    "attention.head_count_kv",
    "feed_forward_length",
    "expert_feed_forward_length",
    "expert_used_count",
)
#: Lists that llama.cpp reads by the number of tokens, whatever their own is.
_OF_TOKENS: Final = ("scores", "token_type")
_SCALINGS: Final = ("none", "linear", "yarn", "longrope")
#: Architectures whose heads are rotated whole.
_ROTATED_WHOLE: Final = frozenset({"llama", "deci", "falcon", "llama-embed"})
#: Architectures whose feed_forward_length is another width than that of ffn_down: their tables know which.
_OTHER_WIDTHS: Final = frozenset({"qwen", "arctic"})
_MOST_LAYERS: Final = 512
#: Files that are no models: their own programs read them.
_OTHERS: Final = frozenset({"adapter", "imatrix", "mmproj"})
_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Something that metadata say and tensors, or other metadata, contradict. key: "" where no key is to blame."""

    key: str
    message: str


def disagreements(model: Checkpoint[Tensor]) -> list[Disagreement]:
    """All that rules tell of a GGUF; what its family's table tells comes last, and only the first of that.

    No tensor byte is read. Files that are no models (adapters, projectors, importance matrices) have none.
    """
    return [*general(model), *_of_family(model)]


def refuse_new(after: Checkpoint[Tensor], before: Checkpoint[Tensor] | None = None, hint: str = "") -> None:
    """Raises `PlanError` for what `after` has and `before` had not: a file that was broken may still be changed.

    before: None for a file that is new.
    """
    # what the rules tell takes nearly no time; the table imports a family, and is asked where it may have a say
    for look in (general, _of_family) if _is_remade(after, before) else (general,):
        known = set(look(before)) if before is not None else set()
        found = [one for one in look(after) if one not in known]
        if found:
            more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
            raise PlanError("\n  ".join([*(one.message for one in found[:_SHOWN]), *more]), hint=hint)


def _is_remade(after: Checkpoint[Tensor], before: Checkpoint[Tensor] | None) -> bool:
    """Whether keys of the architecture, or tensors, are other ones."""
    if before is None or after.architecture != before.architecture:
        return True
    if [(t.name, t.shape) for t in after.tensors] != [(t.name, t.shape) for t in before.tensors]:
        return True
    keys = [key for key in {**before.metadata, **after.metadata} if key.startswith(f"{after.architecture}.")]
    return any(before.metadata.get(key) != after.metadata.get(key) for key in keys)


def general(model: Checkpoint[Tensor]) -> Iterable[Disagreement]:
    """What the rules tell that hold for every architecture."""
    told = _Told(model.metadata)
    if told.text("general.type") in _OTHERS or told.architecture == PROJECTOR:
        return
    shapes = {tensor.name: tensor.shape for tensor in model.tensors}
    yield from _kinds(told)
    yield from _vocabulary(told, shapes)
    if shapes:
        yield from _needed(told)
    yield from _layers(told, shapes)
    yield from _sizes(told, shapes)
    yield from _experts(told)
    yield from _heads(told, shapes)
    yield from _rope(told)


class _Told:
    """Metadata by what they are asked for: values of another type count as none, since their type is told already."""

    def __init__(self, metadata: Mapping[str, Typed]) -> None:
        self.metadata = metadata
        self.architecture = self.text("general.architecture")

    def text(self, key: str) -> str:
        typed = self.metadata.get(key)
        return typed.value if typed is not None and isinstance(typed.value, str) else ""

    def key(self, name: str) -> str:
        """A key of the architecture."""
        return f"{self.architecture}.{name}"

    def number(self, name: str) -> int | None:
        """A whole number of the architecture's."""
        typed = self.metadata.get(self.key(name))
        value = None if typed is None else typed.value
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def items(self, key: str) -> int | None:
        """The length of a list."""
        typed = self.metadata.get(key)
        is_list = typed is not None and isinstance(typed.value, Sequence) and not isinstance(typed.value, str)
        return len(typed.value) if is_list else None  # type: ignore[union-attr, arg-type]

    def of_layer(self, name: str, layer: int) -> int | None:
        """A number for a layer, be it one for all or a list."""
        typed = self.metadata.get(self.key(name))
        value = None if typed is None else typed.value
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = value[layer] if layer < len(value) else None  # type: ignore[assignment]
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def _kinds(told: _Told) -> Iterator[Disagreement]:
    for key, typed in told.metadata.items():
        kind = kind_of(key, told.architecture)
        if kind is not None and kind != typed.kind and not typed.kind.startswith("["):
            word = KIND_WORDS[kind[0]]
            yield Disagreement(key, f"{key} is stored as {typed.kind}; llama.cpp reads {kind} ({word}) only")


def _needed(told: _Told) -> Iterator[Disagreement]:
    if not told.architecture:
        yield Disagreement("general.architecture", "general.architecture is missing")
        return
    for name in _NEEDED:
        if told.key(name) not in told.metadata:
            yield Disagreement(told.key(name), f"{told.key(name)} is missing, without which llama.cpp loads no model")


def _vocabulary(told: _Told, shapes: Mapping[str, Shape]) -> Iterator[Disagreement]:
    embedding = shapes.get("token_embd.weight")
    rows = embedding[0] if embedding is not None and len(embedding) == 2 else None
    tokens = told.items("tokenizer.ggml.tokens")
    if tokens is not None and rows is not None and tokens != rows:
        key = "tokenizer.ggml.tokens"
        yield Disagreement(key, f"{key} has {tokens} tokens; token_embd.weight has {rows} rows")
    size = told.number("vocab_size")
    if size is not None and rows is not None and size != rows:
        yield Disagreement(
            told.key("vocab_size"), f"{told.key('vocab_size')} cannot be {size}: token_embd.weight has {rows} rows"
        )
    for name in _OF_TOKENS:
        key = f"tokenizer.ggml.{name}"
        length = told.items(key)
        if length is not None and tokens is not None and length != tokens:
            yield Disagreement(key, f"{key} has {length} items for {tokens} tokens; llama.cpp reads one for each")
    count, what = (rows, "the embedding has {} rows") if tokens is None else (tokens, "the vocabulary has {} tokens")
    for key, typed in told.metadata.items():
        named = key.startswith("tokenizer.ggml.") and key.endswith("_token_id")
        value = typed.value
        if named and count is not None and isinstance(value, int) and not 0 <= value < count:
            yield Disagreement(key, f"{key} cannot be {value}: {what.format(count)}")


def _layers(told: _Told, shapes: Mapping[str, Shape]) -> Iterator[Disagreement]:
    count = told.number("block_count")
    key = told.key("block_count")
    if count is None:
        return
    if not 0 < count <= _MOST_LAYERS:
        yield Disagreement(key, f"{key} cannot be {count}: llama.cpp takes 1 to {_MOST_LAYERS} layers")
    numbers = {name.split(".")[1] for name in shapes if name.startswith("blk.")}
    there = max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)
    # layers that predict tokens ahead are counted, and may be left out of the file
    ahead = told.number("nextn_predict_layers") or 0
    if there and not count - ahead <= there <= count:
        yield Disagreement(key, f"{key} cannot be {count}: there are tensors of {there} layers")
    for name in _OF_LAYERS:
        length = told.items(told.key(name))
        if length is not None and length != count:
            yield Disagreement(told.key(name), f"{told.key(name)} has {length} items for {count} layers")


def _sizes(told: _Told, shapes: Mapping[str, Shape]) -> Iterator[Disagreement]:
    embedding, router = shapes.get("token_embd.weight"), shapes.get("blk.0.ffn_gate_inp.weight")
    exact: dict[str, tuple[int, str]] = {}
    if embedding is not None and len(embedding) == 2:
        exact["embedding_length"] = embedding[1], "token_embd.weight"
    if router is not None and len(router) == 2:
        exact["expert_count"] = router[0], "blk.0.ffn_gate_inp.weight"
    for name, (size, tensor) in exact.items():
        said = told.number(name)
        if said is not None and said != size:
            yield Disagreement(told.key(name), f"{told.key(name)} cannot be {said}: the tensors say {size} ({tensor})")
    key = told.key("feed_forward_length")
    for tensor, shape in shapes.items():
        layer = _layer_of(tensor, "ffn_down.weight")
        if layer is None or len(shape) != 2 or told.architecture in _OTHER_WIDTHS:
            continue
        said = told.of_layer("feed_forward_length", layer)
        if said is not None and said != shape[1]:
            yield Disagreement(key, f"{key} cannot be {said}: the tensors say {shape[1]} ({tensor})")
            return


def _layer_of(tensor: str, name: str) -> int | None:
    """The layer of a tensor that has this name in it."""
    group, _, rest = tensor.partition(".")
    number, _, own = rest.partition(".")
    return int(number) if group == "blk" and own == name and number.isdecimal() else None


def _experts(told: _Told) -> Iterator[Disagreement]:
    count, used = told.number("expert_count") or 0, told.of_layer("expert_used_count", 0) or 0
    key = told.key("expert_used_count")
    if used > count:
        yield Disagreement(key, f"{key} cannot be {used} of {count} experts")
    elif count > 1 and not used:
        yield Disagreement(key, f"{key} cannot be 0 of {count} experts")


def _rope(told: _Told) -> Iterator[Disagreement]:
    scaling = told.text(told.key("rope.scaling.type"))
    if scaling and scaling not in _SCALINGS:
        key = told.key("rope.scaling.type")
        yield Disagreement(key, f"{key} cannot be {printable(scaling, 40)!r}: there are {', '.join(_SCALINGS)}")
    rotary, width = told.number("rope.dimension_count"), _width(told, "key_length")
    if told.architecture in _ROTATED_WHOLE and rotary is not None and width and rotary != width:
        key = told.key("rope.dimension_count")
        yield Disagreement(key, f"{key} cannot be {rotary}: heads have {width} numbers")


def _width(told: _Told, name: str) -> int | None:
    """Numbers of a head's keys or values: as said, or else its share of the embedding."""
    said = told.number(f"attention.{name}")
    heads, embedding = told.of_layer("attention.head_count", 0), told.number("embedding_length")
    if said is not None or not heads or embedding is None:
        return said
    return embedding // heads


def _heads(told: _Told, shapes: Mapping[str, Shape]) -> Iterator[Disagreement]:
    """Rows of queries, keys and values against heads; of compressed keys the family's table knows."""
    if told.number("attention.kv_lora_rank"):
        return
    keys, values = (
        {n for n in (_width(told, name), told.number(f"attention.{name}_swa")) if n}
        for name in ("key_length", "value_length")
    )
    for tensor in shapes:
        layer = _layer_of(tensor, "attn_k.weight")
        if layer is None:
            continue
        heads = told.of_layer("attention.head_count", layer)
        kv = told.of_layer("attention.head_count_kv", layer)
        kv = heads if kv is None else kv
        if not heads or not kv or not keys:
            continue
        wanted = {
            "attn_q": {gates * heads * width for width in keys for gates in (1, 2)},  # a gate may stand beside it
            "attn_k": {kv * width for width in keys},
            "attn_v": {kv * width for width in values},
        }
        found = False
        for name, allowed in wanted.items():
            own = f"blk.{layer}.{name}.weight"
            rows = shapes[own][0] if len(shapes.get(own, ())) == 2 else None
            if rows is not None and rows not in allowed:
                found = True
                widths = " or ".join(map(str, sorted(keys if name != "attn_v" else values)))
                count = heads if name == "attn_q" else kv
                what = "head_count" if name == "attn_q" else "head_count_kv"
                yield Disagreement(
                    told.key(f"attention.{what}"),
                    f"{told.key(f'attention.{what}')} cannot be {count}, of {widths} numbers each: {own} has "
                    f"{rows} rows",
                )
        if heads % kv:
            found = True
            key = told.key("attention.head_count_kv")
            yield Disagreement(key, f"{key} cannot be {kv}: {heads} heads do not divide by it")
        if found:
            return  # the other layers are alike


def _of_family(model: Checkpoint[Tensor]) -> Iterable[Disagreement]:
    """The first thing that the family's table tells, if the family is known and there is anything to tell."""
    if not model.tensors or not model.architecture:
        return
    from requant.architectures import unfitting

    trouble = unfitting(model)
    if trouble:
        yield Disagreement("", trouble)


def described(
    metadata: Mapping[str, Typed], tensors: Iterable[TensorSpec], like: Checkpoint[Tensor]
) -> Checkpoint[Tensor]:
    """A GGUF that is not written yet: these key-values and tensors, without their bytes. like: whose path it has."""
    architecture = metadata.get("general.architecture")
    name = architecture.value if architecture is not None and isinstance(architecture.value, str) else ""
    bare = tuple(Tensor(tensor.name, tensor.shape, tensor.encoding, {}) for tensor in tensors)
    return Checkpoint(Naming.GGML, name, bare, metadata=dict(metadata), path=like.path)
