"""The rules, each with what comes of breaking it.

Facts of llama.cpp are of b11549 (`gguf_init_from_reader` in ggml/src/gguf.cpp, `llama_vocab::impl::load` in
src/llama-vocab.cpp, `llama_model_loader` in src/llama-model-loader.cpp), those of safetensors of its library, 0.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Severity(Enum):
    """ERROR: a program that is meant to load the model refuses it, or computes something else. WARNING: it loads, but
    not as the file says, or only in some programs."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. about: what it is of. says: what must hold. reason: what happens else, and who says so."""

    name: str
    severity: Severity
    about: str
    says: str
    reason: str


_E, _W = Severity.ERROR, Severity.WARNING
_GGUF, _SAFE, _ANY = "GGUF file", "safetensors file", "file"
_SPLIT, _META, _TOKENS = "split GGUF", "GGUF metadata", "tokenizer of a GGUF"
_FAMILY, _FOLDER, _VALUES = "family", "Hugging Face folder", "values"
_REFUSED: Final = "llama.cpp refuses the file"

_ROWS: Final = (
    Rule("readable", _E, _ANY, "a file can be read", "nothing behind that place is known"),
    Rule("duplicate-key", _E, _ANY, "no key is there twice", f"{_REFUSED}; readers of safetensors drop one silently"),
    Rule("duplicate-tensor", _E, _ANY, "no two tensors have one name", f"{_REFUSED}; others drop one silently"),
    Rule("tensor-type", _E, _ANY, "a tensor has a type that there is", "nobody knows how many bytes it has"),
    Rule("tensor-size", _E, _ANY, "shape and type of a tensor make its size", "readers refuse the file"),
    Rule("overlap", _E, _ANY, "no tensor lies over another", "readers refuse the file; one of the two is damaged"),
    Rule("hole", _E, _ANY, "tensors follow each other, in a GGUF padded to the alignment", "readers refuse the file"),
    Rule("truncated", _E, _ANY, "the file has all bytes of its tensors", "readers refuse the file"),
    Rule("empty-key", _E, _GGUF, "a key has a name", _REFUSED),
    Rule("alignment", _E, _GGUF, "general.alignment is a u32 and a power of two", _REFUSED),
    Rule("boolean", _W, _GGUF, "a boolean is 0 or 1", "what another number means differs between programs"),
    Rule("dimensions", _E, _GGUF, "a tensor has at most 4 dimensions", _REFUSED),
    Rule("whole-blocks", _E, _GGUF, "rows of a tensor are whole blocks of its type", _REFUSED),
    Rule("aligned-tensor", _E, _GGUF, "a tensor begins at a multiple of the alignment", _REFUSED),
    Rule("name-length", _E, _GGUF, "the name of a tensor has at most 63 bytes", f"{_REFUSED} (GGML_MAX_NAME)"),
    Rule("padding", _W, _GGUF, "padding is zeros", "the specification says so; checksums of files then differ"),
    Rule("bytes-behind", _W, _GGUF, "nothing follows the last tensor but padding", "no program reads it"),
    Rule("text", _W, _GGUF, "strings are UTF-8", "the specification says so; gguf-py cannot read others"),
    Rule("bytes-left-over", _E, _SAFE, "nothing follows the last tensor", "the library refuses the file"),
    Rule("split-name", _E, _SPLIT, "a file's name says its number as its metadata do", "its siblings are not found"),
    Rule("split-missing", _E, _SPLIT, "all files of a model are there", "llama.cpp refuses the model"),
    Rule("split-number", _E, _SPLIT, "each file says its own number", "llama.cpp refuses the model"),
    Rule("split-metadata", _W, _SPLIT, "files agree in metadata", "llama.cpp reads those of the first file only"),
    Rule("split-tensors", _E, _SPLIT, "split.tensors.count is the number of tensors", "llama.cpp refuses the model"),
    Rule("split-duplicate", _E, _SPLIT, "no tensor is in two files", "llama.cpp refuses the model"),
    Rule("agreement", _E, _META, "metadata agree with tensors and with themselves", "llama.cpp refuses or misreads it"),
    Rule("file-type", _W, _META, "general.file_type is what the tensors are", "it is what programs show"),
    Rule("tokenizer-model", _E, _TOKENS, "tokenizer.ggml.model is one that llama.cpp has", _REFUSED),
    Rule("tokens", _E, _TOKENS, "tokens, scores and types are lists of their kinds", _REFUSED),
    Rule("duplicate-token", _E, _TOKENS, "no token is there twice", "llama.cpp stops at an assertion"),
    Rule("empty-token", _W, _TOKENS, "no token is empty", "llama.cpp takes it for [EMPTY_id]"),
    Rule("token-type", _W, _TOKENS, "a token's type is 1 to 6", "llama.cpp takes others for undefined, silently"),
    Rule("merges", _E, _TOKENS, "a byte-pair tokenizer has merges", _REFUSED),
    Rule("merge-pairs", _W, _TOKENS, "a merge makes one token of two", "llama.cpp never applies it, silently"),
    Rule("pre-tokenizer", _E, _TOKENS, "tokenizer.ggml.pre is one that llama.cpp has", _REFUSED),
    Rule(
        "pre-tokenizer-missing",
        _W,
        _TOKENS,
        "a byte-pair tokenizer says how text is cut into words",
        "llama.cpp cuts it as GPT-2 does, and the model reads other tokens than it was trained with",
    ),
    Rule("chat-template", _W, _TOKENS, "a chat template is a template", "llama.cpp cannot chat with the model"),
    Rule("family", _E, _FAMILY, "hyperparameters are those that the family needs", "no program can load the model"),
    Rule("missing-tensor", _E, _FAMILY, "every tensor of the family is there", "llama.cpp refuses the model"),
    Rule("tensor-shape", _E, _FAMILY, "tensors have the shapes that the sizes say", "llama.cpp refuses the model"),
    Rule("unknown-tensor", _W, _FAMILY, "no tensor is there that the family has not", "llama.cpp refuses such a GGUF"),
    Rule("config", _E, _FOLDER, "there is a config.json, and it can be read", "transformers cannot load the model"),
    Rule("index", _W, _FOLDER, "an index names the tensors and files that there are", "loaders go by it, or do not"),
    Rule("shards", _E, _FOLDER, "all weight files of a model are there, and no tensor twice", "it cannot be loaded"),
    Rule("quantization", _E, _FOLDER, "arrays are what the quantization config says", "weights are read wrongly"),
    Rule("suspect", _W, _FOLDER, "nothing contradicts itself", "programs differ in what they believe"),
    Rule("tokenizer", _E, _FOLDER, "the tokenizer is whole and fits the embedding", "it cannot be used, or not safely"),
    Rule(
        "token-rows", _W, _FOLDER, "every token has a row of the embedding", "a text with the token cannot be computed"
    ),
    Rule(
        "special-ids", _E, _FOLDER, "ids of special tokens are rows of the embedding", "generation fails or never ends"
    ),
    Rule("not-finite", _E, _VALUES, "every value is a finite number", "one NaN makes every output of the model NaN"),
    Rule("zero-scale", _W, _VALUES, "no scale is 0 before codes that differ", "their values are lost"),
    Rule("all-zero", _W, _VALUES, "no matrix is nothing but zeros", "it was probably never written"),
)

#: Every rule by name.
RULES: Final[Mapping[str, Rule]] = {rule.name: rule for rule in _ROWS}
