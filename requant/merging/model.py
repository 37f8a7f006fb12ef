"""A model that is merged, whatever its format, in Hugging Face's names and orders of rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from requant.adapters.applied import applied
from requant.adapters.applied_ggml import ggml_applied
from requant.adapters.changes import Adapter
from requant.encodings import BF16, F16, F32, Dense
from requant.errors import PlanError
from requant.expressions import Node
from requant.ir import Checkpoint, Json, Naming, Tensor, flat_config
from requant.losses import Loss
from requant.merging.reference import Reference
from requant.merging.vocabulary import Vocabulary
from requant.passes import Pass, made
from requant.passes.claim import Claim
from requant.passes.companions import DropScales, FoldScales
from requant.passes.names import OwnNames
from requant.passes.tokenizer import TokenizerToHf
from requant.passes.translation import translation
from requant.passes.unwrap import Unwrap
from requant.plan import unchanged
from requant.sources import Source
from requant.tokenizers.files import TOKENIZER_FILE

#: A tensor of a layer: what stands before the layer's number, the number, and what stands after it.
_LAYERED: Final = re.compile(r"(.*?\b(?:layers|h|blocks?|layer))\.(\d+)\.(.+)", re.ASCII)
#: How the names of embeddings and of output heads end, whose rows are tokens.
_EMBEDDINGS: Final = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
    "shared.weight",
)
_HEADS: Final = ("lm_head.weight", "embed_out.weight")


@dataclass(frozen=True, slots=True)
class Model:
    """tensors: by Hugging Face name, as expressions over the model's file. config, files: as a folder has them.

    source: what was read. losses: what the way to Hugging Face's names drops.
    """

    reference: Reference
    source: Checkpoint[Tensor]
    config: Mapping[str, Json]
    files: Mapping[str, Source]
    tensors: Mapping[str, Node]
    losses: tuple[Loss, ...] = ()

    @property
    def label(self) -> str:
        """What it is called in plans and messages."""
        parts = [Path(part.rstrip("/")).name or part for part in (self.reference.model, self.reference.lora) if part]
        return "+".join(parts)

    @property
    def embedding(self) -> str | None:
        """The name of its token embedding."""
        return next((name for name in self.tensors if is_embedding(name)), None)

    @property
    def head(self) -> str | None:
        """The name of its output head, unless the embedding is tied to it."""
        return next((name for name in self.tensors if is_head(name)), None)

    @property
    def rows(self) -> int:
        """Rows of the embedding; 0 if it has none."""
        return 0 if self.embedding is None else self.tensors[self.embedding].shape[0]

    @property
    def dtype(self) -> Dense:
        """In what numbers are stored of which nothing else says: as config.json has it, or BF16."""
        named = str(self.value("torch_dtype") or self.value("dtype") or "").removeprefix("torch.")
        return {"float16": F16, "float32": F32}.get(named, BF16)

    def vocabulary(self, known: dict[bytes, Vocabulary]) -> Vocabulary | None:
        """Its tokenizer; `known` as for `Vocabulary.of`."""
        return Vocabulary.of(self.source, self.files, known)

    def value(self, key: str) -> Json:
        """A value of config.json, or of its text model."""
        return flat_config(self.config).get(key)


def model_of(reference: Reference, source: Checkpoint[Tensor]) -> Model:
    """Read what `source` is; raises `UnsupportedError` and `PlanError` for what no model is made of."""
    passes: list[Pass] = [Claim(Naming.HF), Unwrap(Naming.HF), OwnNames(), DropScales()]
    if source.naming is Naming.GGML:
        passes = [Claim(Naming.HF), FoldScales(), *translation(Naming.HF), TokenizerToHf()]
    said, _ = made(passes, unchanged(source))
    if not said.config:
        raise PlanError(
            f"{reference}: there is no config.json, which says what model the tensors make",
            hint="name the folder that has it, not a file inside",
        )
    tensors = {move.name: move.values for move in said.moves}
    return Model(reference, source, said.config, said.files, tensors, said.losses)


def with_adapter(model: Model, adapter: Adapter) -> Model:
    """The model with an adapter on it; raises `PlanError` for one that does not fit."""
    if adapter.naming is Naming.GGML:
        found = ggml_applied(adapter, model.source, model.tensors)
    else:
        found = applied(adapter, model.tensors, model.config)
    files, config = dict(model.files), dict(model.config)
    if found.rows is not None:
        files |= {name: file for name, file in adapter.files.items() if TOKENIZER_FILE.fullmatch(name)}
        key = "vocab_size"
        text = config.get("text_config")
        config |= {"text_config": {**text, key: found.rows}} if isinstance(text, dict) else {key: found.rows}
    source = replace(model.source, opened=(*model.source.opened, *adapter.opened))
    losses = (*model.losses, *found.losses)
    return replace(model, source=source, config=config, files=files, tensors=found.tensors, losses=losses)


def layer_of(name: str) -> tuple[str, int, str] | None:
    """What stands before a layer's number, the number, and what stands after it; None for tensors of no layer.

    >>> layer_of("model.layers.12.mlp.up_proj.weight")
    ('model.layers', 12, 'mlp.up_proj.weight')
    """
    match = _LAYERED.fullmatch(name)
    return None if match is None else (match[1], int(match[2]), match[3])


def is_embedding(name: str) -> bool:
    """Whether its rows are tokens that come in."""
    return name.endswith(_EMBEDDINGS) and layer_of(name) is None


def is_head(name: str) -> bool:
    """Whether its rows are tokens that go out."""
    return name.endswith(_HEADS)
