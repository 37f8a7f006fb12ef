"""What a model is called, under which licence it is, and what it was made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from requant.ir import Checkpoint, Json, Naming, Tensor

_SMOOTHED, _CORRECTED = _ROUNDING = ("quantize.smoothing.", "quantize.feedback.")
#: No model is made of more than these.
_MOST_BASES = 64


@dataclass(frozen=True, slots=True)
class Origin:
    """Texts are as the file has them, empty where it says nothing; bases are names on the Hub where it has those."""

    name: str = ""
    author: str = ""
    licence: str = ""
    bases: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    rounding: str = ""

    def to_json(self) -> dict[str, Json]:
        """As printed by `--json`."""
        return {
            "name": self.name,
            "author": self.author,
            "license": self.licence,
            "base_models": list(self.bases),
            "datasets": list(self.datasets),
            "rounding": self.rounding,
        }


def origin_of(checkpoint: Checkpoint[Tensor]) -> Origin:
    """Of a GGUF by its `general.*`, of a folder by the front matter of its README.md."""
    if checkpoint.naming is Naming.GGML:
        values = {key: typed.value for key, typed in checkpoint.metadata.items()}
        licence = _first(values, "general.license.name", "general.license")
        author = _first(values, "general.organization", "general.author")
        bases, datasets = (tuple(_listed(values, f"general.{what}")) for what in ("base_model", "dataset"))
        return Origin(_first(values, "general.name"), author, licence, bases, datasets, _rounding(checkpoint))
    from requant.architectures.card import read_card

    card, _ = read_card(checkpoint)
    licence = _first(card, "license_name", "license")
    bases, datasets = (tuple(_texts(card.get(key))) for key in ("base_model", "datasets"))
    author = _first(card, "author", "organization")
    return Origin(_first(card, "model_name"), author, licence, bases, datasets, _rounding(checkpoint))


def _rounding(checkpoint: Checkpoint[Tensor]) -> str:
    """As the passes that smooth inputs and round with error feedback left it in the metadata."""
    said = {key: str(typed.value) for key, typed in checkpoint.metadata.items() if key.startswith(_ROUNDING)}
    parts = []
    if _SMOOTHED + "alpha" in said:
        parts.append(f"{said.get(_SMOOTHED + 'groups', '?')} inputs smoothed (AWQ), alpha {said[_SMOOTHED + 'alpha']}")
    if _CORRECTED + "damping" in said:
        damping, order, tokens = (said.get(_CORRECTED + key, "?") for key in ("damping", "act_order", "tokens"))
        parts.append(f"with error feedback (GPTQ) by {tokens} tokens, damping {damping}, act-order {order}")
    return "; ".join(parts)


def _first(values: Mapping[str, object], *keys: str) -> str:
    """The first text among them; of a list, as cards have it, its items."""
    return next((", ".join(texts) for key in keys if (texts := list(_texts(values.get(key))))), "")


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        yield from (item for item in value if isinstance(item, str))


def _listed(values: Mapping[str, object], prefix: str) -> Iterable[str]:
    """`PREFIX.count` of them, each with a name, an organization and an address."""
    count = values.get(f"{prefix}.count")
    for n in range(min(count, _MOST_BASES) if isinstance(count, int) else 0):
        address = _first(values, f"{prefix}.{n}.repo_url", f"{prefix}.{n}.url")
        named = "/".join(filter(None, (_first(values, f"{prefix}.{n}.{key}") for key in ("organization", "name"))))
        yield address.removeprefix("https://huggingface.co/").removeprefix("datasets/") or named or "not named"
