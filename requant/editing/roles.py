"""Special tokens, by the options of `requant edit`: apart from the rest, which its help does not wait for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: What a token is for, as options name it -> the key of its id (one is spelled so in llama.cpp).
ROLES: Final[Mapping[str, str]] = {
    role: f"tokenizer.ggml.{name}_token_id"
    for role, name in {
        "bos": "bos",
        "eos": "eos",
        "eot": "eot",
        "eom": "eom",
        "pad": "padding",
        "unk": "unknown",
        "sep": "seperator",
        "mask": "mask",
    }.items()
}
