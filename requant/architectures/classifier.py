"""Heads that score a whole text: one row for each label, which rerankers have one of.

llama.cpp's pooling type RANK takes the vector of the last token of a decoder and of the first token of an encoder,
and multiplies it by `cls.output`, after `cls` and tanh where a GGUF has that. Qwen 3 puts a softmax behind it, so that
a single row would always score 1: it gets a row of zeros, whose softmax beside it is the sigmoid of its score.

Facts: `build_pooling` of llama.cpp's src/llama-graph.cpp; `create_tensor` of src/models/bert.cpp and qwen3.cpp, the
only families of ours whose GGUF may have these tensors; the classes of transformers. llama.cpp's converter leaves out
the pooler of `BertForSequenceClassification`, which transformers puts before the classifier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from requant.architectures.names import Expected, base_of, find, named
from requant.architectures.rules import Config, Family, Irregular, Rule, Sizes, ToGgml, ToHf
from requant.encodings import Dense
from requant.errors import PlanError, UnsupportedError
from requant.expressions import Joined, Stored, reshaped
from requant.ir import Checkpoint, Json, Tensor, Typed
from requant.losses import Loss, LossKind
from requant.plan import Move
from requant.sources import Memory

LABELS: Final = "classifier.output_labels"
#: llama.h's `llama_pooling_type` of the same name.
RANK: Final = 4
_OUTPUT: Final = "cls.output.weight"
#: The label of the row of zeros: none of a model.
_NOT: Final = "not "


@dataclass(frozen=True, slots=True)
class Classifier:
    """What a family's classes for scoring have more than its headless model.

    classes: in transformers, the one written into config.json first. rules: `labels` counts the rows. softmax:
    llama.cpp's scores are the softmax of the rows. last: the last token is scored, not the first.
    """

    classes: tuple[str, ...]
    rules: tuple[Rule, ...]
    softmax: bool = False
    last: bool = True

    def pair(self, family: Family) -> Irregular:
        """For every family that has one."""
        return Irregular(
            lambda checkpoint, config, sizes: self._to_ggml(family, checkpoint, config, sizes),
            lambda values, tensors, sizes: self._to_hf(family, values, tensors, sizes),
        )

    def _to_ggml(self, family: Family, checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
        classes = config.get("architectures")
        if not isinstance(classes, list) or not set(self.classes) & set(map(str, classes)):
            return ToGgml()
        if self.last and config.get("is_causal") is False:
            raise UnsupportedError(
                "config.json: a classifier with is_causal = false; llama.cpp scores the first token then, not the last"
            )
        tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
        base, labels = base_of(family, tensors), _labels(config)
        moves = [self._move(item, tensors) for item in self._expected({**sizes, "labels": len(labels)}, base)]
        if self._sigmoid(labels):
            labels.append(_NOT + labels[0])
            moves = [_with_zeros(move) if move.name == _OUTPUT else move for move in moves]
        values = {"pooling_type": Typed("u32", RANK), LABELS: Typed("[str]", labels)}
        used = frozenset(tensor.name for move in moves for tensor in move.inputs)
        return ToGgml(values, moves=tuple(moves), used=used, losses=_token_types(sizes, classes))

    def _expected(self, sizes: Sizes, base: str) -> list[Expected]:
        return [named(rule, None, sizes, base) for rule in self.rules]

    def _move(self, item: Expected, tensors: Mapping[str, Tensor]) -> Move:
        return Move(item.ggml, reshaped(Stored(find(item, item.hf[0], item.shape, tensors)), item.ggml_shape))

    def _sigmoid(self, labels: list[str]) -> bool:
        return self.softmax and len(labels) == 1

    def _to_hf(self, family: Family, values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
        if _OUTPUT not in tensors:
            return ToHf()
        found = values.get(LABELS)
        labels = [str(label) for label in found] if isinstance(found, list) else ["LABEL_0"]
        zeros = self.softmax and len(labels) == 2 and labels[1] == _NOT + labels[0]
        config: dict[str, Json] = {
            "architectures": [self.classes[0]],
            "num_labels": len(labels) - zeros,
            "id2label": {str(n): label for n, label in enumerate(labels[: len(labels) - zeros])},
            "label2id": {label: n for n, label in enumerate(labels[: len(labels) - zeros])},
        }
        moves, used = [], set()
        for item in self._expected({**sizes, "labels": len(labels)}, base_written(family, tensors)):
            tensor = find(item, item.ggml, item.ggml_shape, tensors)
            used.add(tensor.name)
            node = reshaped(Stored(tensor), item.shape)
            moves.append(Move(item.hf[0], node.section(0, 1) if zeros and item.ggml == _OUTPUT else node))
        return ToHf(config, keys=frozenset({LABELS, "pooling_type"}), tensors=frozenset(used), moves=tuple(moves))


def base_written(family: Family, tensors: Mapping[str, Tensor]) -> str:
    """The prefix of the model's tensors in a folder that is made of a GGUF: below a classifier it is never empty."""
    scores = family.classifier is not None and _OUTPUT in tensors
    return next(base for base in family.bases if base) if scores else family.bases[0]


def _labels(config: Config) -> list[str]:
    """What each row means; transformers takes two labels where config.json is silent."""
    written = config.get("id2label")
    if written is None:
        count = config.get("num_labels", 2)
        if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= 1 << 16:
            raise PlanError(f"config.json: num_labels is {count!r}, a number above 0 is needed")
        return [f"LABEL_{n}" for n in range(count)]
    if not isinstance(written, dict) or {str(n) for n in range(len(written))} != set(written) or not written:
        raise PlanError("config.json: id2label does not name a label for each number from 0")
    return [str(written[str(n)]) for n in range(len(written))]


def _token_types(sizes: Sizes, classes: list[Json]) -> tuple[Loss, ...]:
    """An encoder that tells the two texts of a pair by their token types, which llama.cpp does not give."""
    if sizes["types"] < 2:
        return ()
    detail = f"{classes[0]} may tell the second text of a pair by its type; llama.cpp gives every token the first"
    return (Loss(LossKind.UNLOADED, "token_types.weight", detail),)


def _with_zeros(move: Move) -> Move:
    """One row more, of zeros."""
    (tensor,) = move.inputs
    if not isinstance(tensor.encoding, Dense):
        raise UnsupportedError(
            f"tensor {tensor.name!r} is {tensor.encoding.label}; a row of zeros must stand beside it"
        )
    zeros = Tensor(f"{tensor.name} (zeros)", tensor.shape, tensor.encoding, {"data": Memory(bytes(tensor.nbytes))})
    return replace(move, values=Joined((move.values, Stored(zeros))))
