"""What users can change about a recipe, and how they write it: the options of llama-quantize, as values.

Source: `parse_tensor_type`, `parse_tensor_type_file`, `parse_layer_prune` of its tool and `string_parse_kv_override`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from requant.digits import whole
from requant.encodings import Encoding
from requant.errors import PlanError
from requant.ir import Typed
from requant.patterns import of_the_user
from requant.printable import printable
from requant.recipes.key_kinds import KIND_WORDS, kind_of
from requant.recipes.table import encoding_named


@dataclass(frozen=True, slots=True)
class Overrides:
    """Departures from a recipe.

    tensor_types: (regular expression, encoding); the first that is found anywhere in a tensor's name decides.
    output: the encoding of `output.weight`, or of the embedding that stands for it.
    token_embedding: the encoding of the token embeddings.
    pure: every tensor as most tensors. quantize_output: False leaves `output.weight` as it is.
    like: encodings of another file by tensor name; they stand before the recipe's, but after the options above.
    """

    tensor_types: tuple[tuple[str, Encoding], ...] = ()
    output: Encoding | None = None
    token_embedding: Encoding | None = None
    pure: bool = False
    quantize_output: bool = True
    like: Mapping[str, Encoding] | None = None

    def named(self, name: str) -> Encoding | None:
        """What `tensor_types` says about a tensor."""
        return next((encoding for regex, encoding in self.tensor_types if compiled(regex).search(name)), None)


#: Character classes that C++ has inside brackets and Python has not.
_CLASSES: Final = {
    "[:alnum:]": "a-zA-Z0-9",
    "[:alpha:]": "a-zA-Z",
    "[:digit:]": "0-9",
    "[:lower:]": "a-z",
    "[:upper:]": "A-Z",
    "[:space:]": r"\s",
    "[:punct:]": r"!-/:-@\[-`{-~",
    "[:xdigit:]": "0-9a-fA-F",
    "[:w:]": r"\w",
    "[:d:]": r"\d",
    "[:s:]": r"\s",
}


@cache
def compiled(regex: str) -> re.Pattern[str]:
    """A pattern as `std::regex` understands it (ECMAScript); lists of thousands are common, so all are kept."""
    text = regex
    for name, members in _CLASSES.items():
        text = text.replace(name, members)
    try:
        return of_the_user(text, re.ASCII)
    except re.error as error:
        raise PlanError(f"{regex!r} is no regular expression: {error}") from None


def tensor_type(text: str) -> tuple[str, Encoding]:
    """One `--tensor-type`, written `REGEX=TYPE`.

    Like llama-quantize this splits at the first `=` and puts the expression in small letters (`\\D` too).

    >>> tensor_type("ATTN_V=q8_0")[0]
    'attn_v'
    """
    regex, separator, label = text.partition("=")
    if not separator or not regex or not label:
        raise PlanError(f"{text!r} should be REGEX=TYPE", hint="for example attn_v=q8_0")
    regex = regex.lower()
    compiled(regex)
    return regex, _of_folders(label) or encoding_named(label)


def _of_folders(label: str) -> Encoding | None:
    """A type that only modules of MLX or layers of compressed-tensors or GPTQ can have; whoever writes a GGUF refuses
    it."""
    word = label.upper()
    if word.startswith("MLX"):
        from requant.recipes.mlx_types import mlx_encoding

        return mlx_encoding(label)
    if word.startswith(("W4A16", "W8A16")):
        from requant.recipes.packed_types import packed_encoding

        return packed_encoding(label)
    if word.startswith("GPTQ"):
        from requant.recipes.gptq_types import gptq_encoding

        return gptq_encoding(label)
    return None


def tensor_type_file(text: str) -> tuple[tuple[str, Encoding], ...]:
    """The contents of a `--tensor-type-file`: any number of `REGEX=TYPE`, separated by white space."""
    return tuple(tensor_type(word) for word in text.split())


def layers_to_prune(text: str) -> tuple[int, ...]:
    """`--prune-layers`, written `L0,L1,…`: sorted, each once.

    >>> layers_to_prune("3,1,3")
    (1, 3)
    """
    numbers = {whole(word.strip()) for word in text.split(",")}
    if None in numbers:
        raise PlanError(f"{text!r} should be layer numbers, separated by commas")
    return tuple(sorted(number for number in numbers if number is not None))


def override_kv(text: str, read: Callable[[Path], str] | None = None) -> tuple[str, Typed]:
    """One `--override-kv`, written `KEY=TYPE:VALUE` with TYPE int, float, bool or str; `KEY=VALUE` of known keys.

    As llama-quantize writes them: an int becomes the u32 of its magnitude, a float an f32. A number that is none is an
    error here, where it would count as 0 there, and a string may be of any length. read: gives the text of a file, for
    a string that is written `@FILE`; `@@` stands for an `@` that begins one.

    >>> override_kv("a.b=str:@@x")
    ('a.b', Typed(kind='str', value='@x'))
    """
    key, separator, rest = text.partition("=")
    kind, _, value = rest.partition(":")
    if kind not in KIND_WORDS.values() and (known := kind_of(key, key.partition(".")[0])) is not None:
        kind, value = KIND_WORDS[known[0]], rest
    fits = len(key.encode("utf-8", "surrogatepass")) < 128
    if not separator or not key or not fits or kind not in KIND_WORDS.values():
        raise PlanError(
            f"--override-kv {printable(text)!r} should be KEY=TYPE:VALUE, of type int, float, bool or str",
            hint="for example tokenizer.ggml.add_bos_token=bool:false, or tokenizer.chat_template=str:@template.jinja",
        )
    is_plain = value.isascii() and "_" not in value  # Python reads more digits than C, and 1_0
    try:
        match kind:
            case "int" if is_plain and abs(int(value)) < 2**32:
                return key, Typed("u32", abs(int(value)))
            case "float" if is_plain:
                return key, Typed("f32", float(value))
            case "bool" if value in ("true", "false"):
                return key, Typed("bool", value == "true")
            case "str":
                value.encode()  # what is no text is an error
                return key, Typed("str", _string(value, read))
    except ValueError:
        pass
    raise PlanError(
        f"--override-kv {key}: {printable(value)!r} is no {kind} that can be stored",
        hint="types: int (32 bits), float, bool (true or false), str",
    )


def _string(value: str, read: Callable[[Path], str] | None) -> str:
    """As it stands, or what is in a file."""
    if read is None or not value.startswith("@") or value.startswith("@@"):
        return value.removeprefix("@") if value.startswith("@@") else value
    return read(Path(value[1:]))


def overridden(metadata: Mapping[str, Typed], changes: Iterable[tuple[str, Typed]]) -> dict[str, Typed]:
    """Metadata with the changes in place: each moves to the end, where llama.cpp writes it."""
    result = dict(metadata)
    for key, value in changes:
        result.pop(key, None)
        result[key] = value
    return result
