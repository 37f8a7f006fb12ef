"""What `requant recommend` says: a document for programs, a table for people."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from requant.cli.tables import count, size, table
from requant.cli.terminal import width
from requant.printable import printable
from requant.recipes.measured import MEASURED_ON
from requant.recommending.offers import AS_IT_IS, Model, Offer, Refused, best

if TYPE_CHECKING:
    from requant.cli.documents.recommending import RecommendDocument
    from requant.recommending.runtimes import Room


#: Of what is left for a file, what its tensors have: vocabularies take the rest.
_OF_TENSORS: Final = 0.99


def document(
    model: str, about: Model, room: Room, offers: Sequence[Offer], refused: Sequence[Refused]
) -> RecommendDocument:
    """For `--json`; what `say_document` adds is left out."""
    chosen = best(offers, room)
    said: RecommendDocument = {  # type: ignore[typeddict-item]
        "model": model,
        "runtime": room.runtime.name,
        "device": room.device.name,
        "memory_bytes": room.installed,
        "usable_bytes": room.memory,
        "bandwidth": room.bandwidth,
        "context": room.context,
        "trained_context": about.trained,
        "sequences": room.sequences,
        "cache": room.cache,
        "expected_kl_of": MEASURED_ON,
        "recommended": None if chosen is None else chosen.recipe,
        "commands": [] if chosen is None else commands(model, chosen, room),
        "commands_for_all_of_it": filling(model, offers, room),
        "recipes": [offer.to_json(room) for offer in offers],
        "refused": [{"recipe": one.recipe, "why": one.why} for one in refused],
    }
    return said


def commands(model: str, offer: Offer, room: Room) -> list[str]:
    """What makes it, to be pasted; nothing for a model that is taken as it is."""
    if offer.recipe == AS_IT_IS:
        return []
    source = shlex.quote(model)
    form = f" --format {room.runtime.format}" if offer.recipe in ("F16", "BF16", "NVFP4", "MXFP4") else ""
    made = f"requant convert {source} --to {offer.recipe}{form}"
    if not offer.importance:
        return [made]
    return [f"requant calibrate {source} -o imatrix.gguf", f"{made} --imatrix imatrix.gguf"]


def filling(model: str, offers: Sequence[Offer], room: Room) -> list[str]:
    """What makes a mix of types that fills the memory; nothing where a file of 8 bits fits, or none does."""
    sizes = {offer.recipe: offer for offer in offers}
    chosen, usual = best(offers, room), sizes.get("Q8_0")
    if room.runtime.format != "gguf" or chosen is None or chosen.recipe == AS_IT_IS or usual is None:
        return []
    left = int(_OF_TENSORS * (room.memory - chosen.cache - chosen.buffers))
    if left >= usual.nbytes:
        return []
    source = shlex.quote(model)
    return [
        f"requant calibrate {source} -o stats.gguf --gradients",
        f"requant convert {source} --stats stats.gguf --target-size {left // 10**6}MB",
    ]


def text(model: str, about: Model, room: Room, offers: Sequence[Offer], refused: Sequence[Refused]) -> str:
    """For people: the advice, then what it was chosen from."""
    return "\n\n".join(
        [
            _head(model, about, room, offers),
            _advice(model, offers, room, about),
            _table(offers, room),
            *([_refusals(refused)] if refused else []),
            _source(about),
        ]
    )


def _head(model: str, about: Model, room: Room, offers: Sequence[Offer]) -> str:
    usable = "" if room.memory == room.installed else f", of which {room.runtime.name} may take {size(room.memory)}"
    many = f", {room.sequences} sequences" if room.sequences > 1 else ""
    cache = size(offers[0].cache) if offers else "nothing"
    lines = [
        f"{printable(model, None)} in {room.runtime.name}",
        f"{count(room.context)} tokens of context{many}: {cache} of keys and values in {room.cache}",
        f"{room.device.name}: {size(room.installed)}{usable}; {room.bandwidth / 1e9:g} GB/s",
    ]
    if room.context > about.trained:
        lines.append(f"it was trained with {count(about.trained)} tokens: more are of little use")
    return "\n".join(lines)


def _advice(model: str, offers: Sequence[Offer], room: Room, about: Model) -> str:
    chosen = best(offers, room)
    if chosen is None:
        least = min(offers, key=lambda offer: offer.total)
        more = f"--memory {size(least.total / (room.memory / room.installed)).replace(' ', '')}"
        shorter = f", or --context {least.longest}" if least.longest else ""
        return f"nothing fits: the smallest, {least.recipe}, takes {size(least.total)} ({more}{shorter})"
    speed = f"at most {_rate(chosen.speed)} tokens/s"
    if chosen.recipe == AS_IT_IS:
        return f"it fits as it is: {size(chosen.total)}, {speed}"
    said = f"{chosen.recipe}: {size(chosen.total)}, {speed}, expected KL {_kl(chosen)}"
    types = ", ".join(about.quantized)
    again = f"\n  it is quantized already ({types}): this is lost besides" if types else ""
    own = filling(model, offers, room)
    mixed = "\nor types chosen by what this model loses, for all of the memory:" if own else ""
    made, mix = ("".join(f"\n  $ {command}" for command in some) for some in (commands(model, chosen, room), own))
    return said + again + made + mixed + mix


def _table(offers: Sequence[Offer], room: Room) -> str:
    rows = [["recipe", "bits/weight", "weights", "in all", "fits", "context", "tokens/s", "KL", ""]]
    for offer in offers:
        notes = ["imatrix"] if offer.importance else []
        notes += [f"{offer.substituted} in other types"] if offer.substituted else []
        rows.append(
            [
                offer.recipe,
                f"{offer.bits_per_weight:.2f}",
                size(offer.nbytes),
                size(offer.total),
                "yes" if offer.total <= room.memory else "no",
                count(offer.longest) if offer.longest else "none",
                _rate(offer.speed),
                _kl(offer),
                ", ".join(notes),
            ]
        )
    return table(rows, right=frozenset(range(1, 8)), width=width())


def _refusals(refused: Sequence[Refused]) -> str:
    reasons: dict[str, list[str]] = {}
    for one in refused:
        reasons.setdefault(one.why, []).append(one.recipe)
    return "\n".join(f"not {', '.join(names)}: {printable(why, 1000)}" for why, names in reasons.items())


def _source(about: Model) -> str:
    return (
        f"context: the longest that fits, of {count(about.trained)}. tokens/s: at most, by the bandwidth. "
        f"KL: {MEASURED_ON}; it ranks recipes, and `requant check --against` measures this model's."
    )


def _kl(offer: Offer) -> str:
    return "unknown" if offer.kl is None else f"{offer.kl:.4f}" if offer.kl else "0"


def _rate(speed: float) -> str:
    return f"{speed:.3g}" if speed < 100 else count(round(speed))
