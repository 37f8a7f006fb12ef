"""Blocks of a matrix that share a scale, as quantization configurations give their sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from requant.ir import Json


def blocks_of(config: Mapping[str, Json]) -> list[tuple[int, int]]:
    """Rows and columns of every block that is named: `weight_block_size`, or compressed-tensors' `block_structure`.

    The latter is two numbers, or in older files the text "128x128".
    """
    found: list[Json] = [config.get("weight_block_size")]
    groups = config.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        found.append(weights.get("block_structure") if isinstance(weights, dict) else None)
    blocks: list[tuple[int, int]] = []
    for sizes in found:
        numbers = [int(n) for n in re.findall(r"\d{1,6}", str(sizes))]
        if len(numbers) == 2 and min(numbers) > 0 and (numbers[0], numbers[1]) not in blocks:
            blocks.append((numbers[0], numbers[1]))
    return blocks
