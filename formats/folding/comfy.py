"""ComfyUI's FP8: a description of each layer in JSON (`comfy_quant`), and a marker of the whole file (`scaled_fp8`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from requant.errors import UnsupportedError
from requant.formats.folding.pool import Pool
from requant.ir import Json
from requant.sources import read

#: Bytes of the longest description of a layer.
_LONGEST: Final = 1 << 12
#: What the arrays tell as well: FP8 under one scale. All else is another format, or is rotated.
_READ: Final = re.compile(
    rb'\s*\{\s*"format": *"float8_e(?:4m3|5m2)(?:fn)?"\s*(?:, *"full_precision_matrix_mult": *\w+\s*)?\}'
)


def fold(pool: Pool, config: Mapping[str, Json]) -> None:
    """Take the descriptions out, where they say what is read."""
    for module in pool.modules("comfy_quant"):
        marker = pool.need(module, "comfy_quant")
        text = bytes(read(marker.sources["data"])) if marker.nbytes <= _LONGEST else b""
        if not _READ.fullmatch(text):
            raise UnsupportedError(
                f"{pool.path}: {marker.name!r} describes a layer quantized by ComfyUI, which is not read",
                hint="convert the model it was made from",
            )
        pool.drop(marker.name)
