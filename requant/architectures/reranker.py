"""Qwen3-Reranker: a language model whose answer is read off two tokens, "yes" and "no".

Its configuration says nothing of it, so llama.cpp's converter goes by names; so does this. Their rows of the output
become the rows of `cls.output`, in this order, and the prompt it was trained with a chat template of its own.

Facts: llama.cpp's conversion/qwen.py; the prompt is that of the published models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from requant.architectures.classifier import LABELS, RANK
from requant.architectures.general import json_file, named_folder
from requant.architectures.rules import Config, Irregular, Sizes, ToGgml, ToHf
from requant.cards import NAME as CARD
from requant.encodings import Dense
from requant.errors import UnsupportedError
from requant.expressions import Joined, Stored
from requant.ir import Checkpoint, Json, Tensor, Typed
from requant.losses import Loss, LossKind
from requant.plan import Move
from requant.sources import Memory, read

_NAME: Final = "qwen3-reranker"
_LABELS: Final = ("yes", "no")
_TEMPLATE: Final = "tokenizer.chat_template.rerank"
_TEMPLATES: Final = "tokenizer.chat_templates"
_PROMPT: Final = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
    "<Query>: {query}\n<Document>: {document}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


def _to_ggml(checkpoint: Checkpoint[Tensor], config: Config, sizes: Sizes) -> ToGgml:
    if config.get("architectures") != ["Qwen3ForCausalLM"] or not _called_reranker(checkpoint, config):
        return ToGgml()
    ids = _ids(checkpoint)
    if ids is None:
        detail = f"called {_NAME}, but no tokenizer tells the ids of {' and '.join(_LABELS)}: a plain language model"
        return ToGgml(losses=(Loss(LossKind.SUSPECT, "reranker", detail),))
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    names = ("lm_head.weight", "model.embed_tokens.weight", "embed_tokens.weight")
    head = next(tensors[name] for name in names if name in tensors)
    rows = tuple(Stored(_row(head, n)) for n in ids)
    values = {
        "pooling_type": Typed("u32", RANK),
        LABELS: Typed("[str]", list(_LABELS)),
        _TEMPLATES: Typed("[str]", ["rerank"]),
        _TEMPLATE: Typed("str", _PROMPT),
    }
    return ToGgml(values, moves=(Move("cls.output.weight", Joined(rows)),))


def _called_reranker(checkpoint: Checkpoint[Tensor], config: Config) -> bool:
    """By the folder's name, the name in config.json, or the title of the model card."""
    names = [named_folder(checkpoint.folder).name, str(config.get("_name_or_path", ""))]
    card = checkpoint.files.get(CARD)
    text = "" if card is None or card.nbytes > 1 << 20 else read(card).tobytes().decode("utf-8", "replace")
    return any(_NAME in name.lower() for name in names) or f"# {_NAME}" in text.lower()


def _ids(checkpoint: Checkpoint[Tensor]) -> tuple[int, ...] | None:
    """The ids of the labels, if there is a vocabulary that has them."""
    vocabulary = json_file(checkpoint, "vocab.json")
    if not isinstance(vocabulary, dict):
        whole = json_file(checkpoint, "tokenizer.json")
        model = whole.get("model") if isinstance(whole, dict) else None
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
    found: list[Json] = [vocabulary.get(label) for label in _LABELS] if isinstance(vocabulary, dict) else []
    ids = tuple(n for n in found if isinstance(n, int) and not isinstance(n, bool))
    return ids if len(ids) == len(_LABELS) else None


def _row(tensor: Tensor, n: int) -> Tensor:
    """One row of a plain matrix: a few thousand numbers, read now."""
    if not isinstance(tensor.encoding, Dense) or not 0 <= n < tensor.shape[0]:
        raise UnsupportedError(
            f"tensor {tensor.name!r} is {tensor.encoding.label}{list(tensor.shape)}: no plain row {n}"
        )
    width = tensor.nbytes // tensor.shape[0]
    data = read(tensor.sources["data"], n * width, (n + 1) * width)
    return Tensor(f"{tensor.name}[{n}]", (1, tensor.shape[1]), tensor.encoding, {"data": Memory(data.tobytes())})


def _to_hf(values: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> ToHf:
    return ToHf()  # the family's classifier reads the head; a chat template is the tokenizer's


RERANKER: Final = Irregular(_to_ggml, _to_hf)
