"""The letters by which byte-level vocabularies write bytes."""

from __future__ import annotations

from typing import Final


def _letters() -> list[str]:
    """The letter that stands for each byte in byte-level vocabularies: itself where it prints, else one from 256 on."""
    printed = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in printed]
    return [chr(byte) if byte in printed else chr(256 + hidden.index(byte)) for byte in range(256)]


LETTERS: Final = _letters()


def written(token: bytes) -> str:
    """Bytes as a byte-level vocabulary writes them."""
    return "".join([LETTERS[byte] for byte in token])
