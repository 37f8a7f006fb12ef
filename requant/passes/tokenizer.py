"""The tokenizer in the target's words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Final

from requant.ir import Typed
from requant.passes.passing import Fact
from requant.plan import Translation

#: What a GGUF without a tokenizer says.
_NONE: Final = Typed("str", "none")


@dataclass(frozen=True, slots=True)
class TokenizerToGgml:
    """Tokenizer files become metadata.

    vocabulary: False leaves the tokenizer out.
    """

    name: ClassVar = "tokenizer"
    needs: ClassVar = frozenset({Fact.NAMED})
    ensures: ClassVar = frozenset[Fact]()
    vocabulary: bool = True

    def __call__(self, said: Translation) -> Translation:
        """Raises `UnsupportedError` for a tokenizer that llama.cpp does not have."""
        from requant import tokenizers

        rows = next((move.shape[0] for move in said.moves if move.name == "token_embd.weight"), None)
        if not self.vocabulary:  # without a tokenizer, llama.cpp counts the tokens by this key
            size = {} if rows is None else {f"{said.architecture}.vocab_size": Typed("u32", rows)}
            rest = {key: typed for key, typed in said.metadata.items() if not _of_tokens(key)}
            return replace(said, metadata={**rest, **size, "tokenizer.ggml.model": _NONE})
        outcome = tokenizers.to_ggml(said.source, rows)
        return replace(said, metadata={**said.metadata, **outcome.metadata}).losing(*outcome.losses)


def _of_tokens(key: str) -> bool:
    """Whether a key means nothing without the tokens: all but the count of a BERT's segments, and its templates."""
    return key.startswith("tokenizer.ggml.") and not key.endswith("token_type_count")


@dataclass(frozen=True, slots=True)
class TokenizerToHf:
    """Metadata becomes tokenizer files, if it has a tokenizer."""

    name: ClassVar = "tokenizer"
    needs: ClassVar = frozenset({Fact.NAMED})
    ensures: ClassVar = frozenset[Fact]()

    def __call__(self, said: Translation) -> Translation:
        """Raises `UnsupportedError` for a tokenizer that no file can say."""
        from requant import tokenizers

        metadata = said.source.metadata
        if metadata.get("tokenizer.ggml.model", _NONE) == _NONE:
            return said
        outcome = tokenizers.to_hf(metadata)
        config, files = {**said.config, **outcome.config}, {**said.files, **outcome.files}
        return replace(said, config=config, files=files).losing(*outcome.losses)
