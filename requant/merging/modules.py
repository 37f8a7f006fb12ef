"""The modules of a model that has several stacks of layers: what sees and what reads, or an encoder and a decoder.

mergekit 0.1.5 calls them `text_decoder`, `vision_tower` (of Llama 4 `vision_model`) and `multi_modal_projector`, or
`encoder`, `decoder` and `shared` (mergekit/_data/architectures); where it does not know the class, every stack by what
stands before its layers' numbers, and the rest `default` (mergekit/architecture/auto.py). Here all of them are
understood of every model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from requant.errors import PlanError
from requant.ir import Json
from requant.layered import relayered_config
from requant.merging.model import layer_of

#: The one module of a model that is not made of several, and what stands in no stack of layers that is named.
DEFAULT: Final = "default"
TEXT, VISION, PROJECTOR = "text_decoder", "vision_tower", "multi_modal_projector"
ENCODER, DECODER, SHARED = "encoder", "decoder", "shared"
_OTHER_NAMES: Final = {"vision_model": VISION}
_HALVES: Final = re.compile(r"(?:model\.)?(encoder|decoder)\..+", re.ASCII)
_BETWEEN: Final = re.compile(
    r"(?:.+\.)?(?:\w*projector|\w*merger|deepstack_merger_list|connector|aligner|resampler)\..+"
)


def stacks_of(names: Iterable[str]) -> dict[str, int]:
    """The stacks of layers, by what stands before their numbers (`model.layers`), and how many layers each has."""
    found: dict[str, int] = {}
    for name in names:
        if (place := layer_of(name)) is not None:
            found[place[0]] = max(found.get(place[0], 0), place[1] + 1)
    return found


def kinds_of(names: Iterable[str]) -> Callable[[str], str]:
    """What tells the module of each of a model's tensors by its name."""
    names = tuple(names)
    if len(stacks_of(names)) < 2:
        return lambda name: DEFAULT
    from requant.architectures.seeing import SEEING

    if any(SEEING.has(name, 0) for name in names):
        return lambda name: TEXT if not SEEING.has(name, 0) else PROJECTOR if _BETWEEN.fullmatch(name) else VISION
    if {_half(name) for name in names} >= {ENCODER, DECODER}:
        return _half
    return lambda name: DEFAULT


def _half(name: str) -> str:
    """Of a model that has an encoder and a decoder."""
    match = _HALVES.fullmatch(name)
    return SHARED if match is None else match[1]


def main_stack(names: Iterable[str]) -> str | None:
    """The stack that is meant where a model's layers are spoken of: the text model's, the decoder's, or the longest."""
    names = tuple(names)
    stacks = stacks_of(names)
    if len(stacks) > 1:
        kind = kinds_of(names)
        stacks = {stack: n for stack, n in stacks.items() if kind(f"{stack}.0.x") in (TEXT, DECODER, DEFAULT)} or stacks
    return max(stacks, key=lambda stack: stacks[stack], default=None)


def config_of(
    config: Mapping[str, Json], names: Iterable[str], layers: Mapping[str, Sequence[tuple[Mapping[str, Json], int]]]
) -> dict[str, Json]:
    """config.json of a model with other layers. names: of the tensors of the one that has `config`.

    layers: by stack, for each layer of the result the config of the model that it is of, and its number there. Raises
    `PlanError` for what cannot be said.
    """
    names = tuple(names)
    stacks, main, kind = stacks_of(names), main_stack(names), kinds_of(names)
    found = dict(config)
    for stack, made in layers.items():
        numbers, module = [n for _, n in made], kind(f"{stack}.0.x")
        if module in (ENCODER, DECODER):
            if len(numbers) != stacks.get(stack):
                found |= _recounted(found, module, len(numbers))
        elif stack == main:
            found |= relayered_config(config, numbers, stacks[stack], [source for source, _ in made])
        elif numbers != list(range(stacks.get(stack, 0))):
            raise PlanError(
                f"layers of {stack} cannot be left out, repeated or moved: config.json counts those of {main}",
                hint=f"under `modules:`, give {module} models instead of slices",
            )
    return found


def _recounted(config: Mapping[str, Json], module: str, count: int) -> dict[str, Json]:
    """The keys of transformers' configurations that say how many layers an encoder or a decoder has.

    Those of T5 are num_layers and num_decoder_layers, which is as many where it is missing; those of BART, Marian and
    Whisper encoder_layers and decoder_layers, and num_hidden_layers is the encoder's.
    """
    if "encoder_layers" in config:
        found: dict[str, Json] = {"encoder_layers": count, "num_hidden_layers": count}
        return found if module == ENCODER else {"decoder_layers": count}
    before = config.get("num_layers")
    both: dict[str, Json] = {"num_layers": before, "num_decoder_layers": config.get("num_decoder_layers") or before}
    return both | {"num_layers" if module == ENCODER else "num_decoder_layers": count}


def members_of(names: Iterable[str], wanted: Iterable[str]) -> tuple[Mapping[str, tuple[str, ...]], list[str]]:
    """The tensors of each module of a recipe, and what modules there are where one that is `wanted` is not.

    `default` has what is left. A tensor that two others have is the first one's.
    """
    names = tuple(names)
    kind, stacks = kinds_of(names), stacks_of(names)
    kinds = list(dict.fromkeys(kind(name) for name in names))
    found: dict[str, tuple[str, ...]] = {}
    left = dict.fromkeys(names)
    for module in sorted(wanted, key=lambda module: module == DEFAULT):
        own = _OTHER_NAMES.get(module, module)
        if own == DEFAULT:
            mine = list(left)
        elif own in stacks:
            mine = [name for name in left if name.startswith(f"{own}.")]
        elif own in kinds:
            mine = [name for name in left if kind(name) == own]
        else:
            return {}, [*(kinds if len(kinds) > 1 else ()), *(stacks if len(stacks) > 1 else ()), DEFAULT]
        found[module] = tuple(mine)
        for name in mine:
            del left[name]
    return found, []
