"""What users can change about a recipe, and how they write it: the options of llama-quantize, as values.

Source: `parse_tensor_type`, `parse_tensor_type_file`, `parse_layer_prune` of its tool and `string_parse_kv_override`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from requant.digits import whole
from requant.encodings import Encoding
from requant.errors import PlanError
from requant.ir import Typed
from requant.patterns import of_the_user
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
    return regex, encoding_named(label)


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


def override_kv(text: str) -> tuple[str, Typed]:
    """One `--override-kv`, written `KEY=TYPE:VALUE` with TYPE int, float, bool or str.

    As llama-quantize writes them: an int becomes the u32 of its magnitude, a float an f32, and a string has at most
    127 bytes. A number that is none is an error here, where it would count as 0 there.
    """
    key, separator, rest = text.partition("=")
    kind, colon, value = rest.partition(":")
    if not separator or not colon or not key or len(key.encode()) >= 128:
        raise PlanError(
            f"{text!r} should be KEY=TYPE:VALUE", hint="for example tokenizer.ggml.add_bos_token=bool:false"
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
            case "str" if len(value.encode()) <= 127:
                return key, Typed("str", value)
    except ValueError:
        pass
    raise PlanError(
        f"{text!r}: {value!r} is no {kind or 'value'} that can be stored",
        hint="types: int (32 bits), float, bool (true or false), str (at most 127 bytes)",
    )


def overridden(metadata: Mapping[str, Typed], changes: Iterable[tuple[str, Typed]]) -> dict[str, Typed]:
    """Metadata with the changes in place: each moves to the end, where llama.cpp writes it."""
    result = dict(metadata)
    for key, value in changes:
        result.pop(key, None)
        result[key] = value
    return result
