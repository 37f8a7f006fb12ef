"""Whatever one key of config.json says, of whatever family: the model, or an error that names what is wrong."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from requant.architectures import ARCHITECTURES, translate
from requant.errors import Error
from requant.ir import Naming
from requant.printable import printable
from tests.fuzz import seeds

#: No such key, the wrong type, null, absurd numbers, the usual mistakes of hand-written files.
MISSING = object()
VALUES = (
    *(MISSING, None, "", "text", "1e9", True, False, -1, 0, 1, 3, 7, 2**31, 2**63, 10**30, 0.5, -0.5, 1e300),
    *(math.nan, math.inf, [], [1, 2], ["text"], [None], [[]], {}, {"a": 1}, {"rope_type": "yarn"}),
)
#: Of all cases, which would take minutes, so many of each model: every key, and every value in turn.
EACH = 120


def keys(config: dict, within: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The way to every key, also of those in objects."""
    for key, value in config.items():
        yield (*within, key)
        if isinstance(value, dict):
            yield from keys(value, (*within, key))


def known(config: dict) -> Iterator[tuple[str, ...]]:
    """Keys that a table of the model's family asks for, and config.json does not have."""
    named = [family for family in ARCHITECTURES if set(family.classes) & set(config.get("architectures", []))]
    for family in named:
        for key in family.keys:
            yield from ((name,) for name in key.hf if name not in config)
        yield from ((item.hf,) for item in family.assumptions if item.hf not in config)


def changed(config: dict, way: tuple[str, ...], value: object) -> dict:
    """`config` with another value at the end of the way."""
    if len(way) > 1:
        return {**config, way[0]: changed(config[way[0]], way[1:], value)}
    rest = {key: old for key, old in config.items() if key != way[0]}
    return rest if value is MISSING else {**rest, way[0]: value}


def cases(name: str) -> list[tuple[tuple[str, ...], object]]:
    """Ways and values of a model, spread over all that there are."""
    config = seeds.hf_models()[name].config
    ways = list(dict.fromkeys((*keys(config), *known(config))))
    every = [(way, value) for value in VALUES for way in ways]
    step = max(1, len(every) // EACH)
    return every[:: step + (step % len(ways) == 0)]


def test_there_are_enough():
    assert sum(len(cases(name)) for name in seeds.hf_models()) >= 20_000


@pytest.mark.slow
@pytest.mark.parametrize("name", seeds.hf_models())
def test_one_key_of_a_config(name):
    seed = seeds.hf_models()[name]
    for way, value in cases(name):
        config = changed(seed.config, way, value)
        checkpoint = seeds.hf_checkpoint(replace(seed, config=config), Path("folder"))
        try:
            said = translate(checkpoint, Naming.GGML)
        except Error as error:
            assert str(error), (way, value)
            printable(str(error))
        else:
            assert said.moves, (way, value)
