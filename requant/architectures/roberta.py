"""RoBERTa, XLM-RoBERTa (bge-m3 and its rerankers), CamemBERT: BERT whose positions are counted from behind the padding.

transformers looks the first token up in row 2 of the position embedding (`pad_token_id` + 1). llama.cpp counts from 0,
so that a GGUF lacks the rows before, which no token ever reaches; on the way back they are zeros. Its converter leaves
them in for CamemBERT, whose every token then gets the position two before its own.

Facts: llama.cpp's conversion/bert.py; transformers' modeling_roberta.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from requant.architectures.bert import BERT
from requant.architectures.classifier import Classifier, base_written
from requant.architectures.names import Expected, base_of, find, named
from requant.architectures.rules import (
    Assumption,
    Config,
    Family,
    Ignored,
    Irregular,
    Key,
    Rule,
    Sizes,
    ToGgml,
    ToHf,
    always,
)
from requant.encodings import F32, Dense
from requant.expressions import Joined, Slice, Stored
from requant.ir import Checkpoint, Json, Tensor
from requant.plan import Move
from requant.sources import Memory

#: Rows of the position embedding before that of the first token: one for each id up to that of the padding.
_BEFORE: Final = 2
_POSITIONS: Final = Rule(
    "{base}embeddings.position_embeddings.weight", "position_embd.weight", ("all_positions", "hidden")
)


def _positions(config: Config) -> Json:
    """None where there is no such count, which `sizes_of` reports."""
    rows = config.get("max_position_embeddings", 512)
    return rows - _BEFORE if isinstance(rows, int) and rows > _BEFORE else None


def _item(sizes: Sizes, base: str) -> Expected:
    return named(_POSITIONS, None, {**sizes, "all_positions": sizes["positions"] + _BEFORE}, base)


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    item = _item(sizes, base_of(ROBERTA, tensors))
    tensor = find(item, item.hf[0], item.shape, tensors)
    kept = Slice(Stored(tensor), _BEFORE, tensor.shape[0])
    return ToGgml(moves=(Move(item.ggml, kept),), used=frozenset({tensor.name}))


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    item = _item(sizes, base_written(ROBERTA, tensors))
    tensor = find(item, item.ggml, (sizes["positions"], sizes["hidden"]), tensors)
    encoding = tensor.encoding if isinstance(tensor.encoding, Dense) else F32
    before = Tensor(f"{tensor.name} (zeros)", (_BEFORE, sizes["hidden"]), encoding, {})
    before = replace(before, sources={"data": Memory(bytes(before.nbytes))})
    node = Joined((Stored(before), Stored(tensor)))
    config: dict[str, Json] = {"max_position_embeddings": sizes["positions"] + _BEFORE, "pad_token_id": _BEFORE - 1}
    return ToHf(config, tensors=frozenset({tensor.name}), moves=(Move(item.hf[0], node),))


def _tokenizer(model: str) -> Key:
    """What tells the families of one architecture apart; it is written with the tokenizer."""
    return Key((), "tokenizer.ggml.model", "str", default=always(None))


def _keys() -> tuple[Key, ...]:
    changed = {
        "context_length": Key((), "context_length", "u32", default=_positions),
        "attention.layer_norm_epsilon": Key(
            ("layer_norm_eps",), "attention.layer_norm_epsilon", "f32", default=always(1e-12)
        ),
        # transformers' default of both is that of BERT, every release has one type
    }
    return tuple(changed.get(key.ggml, key) for key in BERT.keys)


def _family(model_type: str, stem: str, model: str, *more: str, other_types: tuple[str, ...] = ()) -> Family:
    """model: of the tokenizer that a GGUF of it has."""
    return replace(
        BERT,
        model_type=model_type,
        classes=(f"{stem}Model", f"{stem}ForMaskedLM", *more),
        other_types=other_types,
        bases=("", "roberta."),
        rules=tuple(rule for rule in BERT.rules if rule.ggml != _POSITIONS.ggml),
        keys=(*_keys(), _tokenizer(model)),
        assumptions=(*BERT.assumptions, Assumption("pad_token_id", (_BEFORE - 1,), _BEFORE - 1, written=False)),
        ignored=(
            Ignored(r"(roberta\.)?embeddings\.position_ids", "counts from zero"),
            Ignored(r"(roberta\.)?pooler\.dense\.(weight|bias)", "llama.cpp has no use for the pooler", lost=True),
            Ignored(r"lm_head\..*", "a pre-training head, which embeddings do not need", lost=True),
        ),
        irregular=(Irregular(_to_ggml, _to_hf),),
        besides=(_POSITIONS.hf,),
        claims=lambda values: values.get("tokenizer.ggml.model") == model,
        classifier=Classifier(
            classes=(f"{stem}ForSequenceClassification",),
            rules=(
                Rule("classifier.dense.weight", "cls.weight", ("hidden", "hidden")),
                Rule("classifier.dense.bias", "cls.bias", ("hidden",)),
                Rule("classifier.out_proj.weight", "cls.output.weight", ("labels", "hidden")),
                Rule("classifier.out_proj.bias", "cls.output.bias", ("labels",)),
            ),
            last=False,
        ),
        suits=lambda config: not config.get("lora_adaptations"),
    )


ROBERTA: Final[Family] = _family("roberta", "Roberta", "gpt2")
XLM_ROBERTA: Final[Family] = _family(
    "xlm-roberta", "XLMRoberta", "t5", "CamembertModel", "CamembertForMaskedLM", other_types=("camembert",)
)
