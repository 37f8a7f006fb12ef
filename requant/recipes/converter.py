"""What an HF checkpoint's tensors become in a GGUF that has never been quantized.

Source: `prepare_tensors` of llama.cpp's conversion code. A quantized recipe starts from its result, as if the file it
writes had been read again; since that file would hold every value of the source, none has to be written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from requant.encodings import BF16, BLOCKS, DENSE, F16, F32, Dense, Encoding
from requant.encodings.exactness import holds
from requant.importance import Importance
from requant.ir import Typed
from requant.recipes.choose import Choice, Wanted, choose_encodings, fits, fitted
from requant.recipes.facts import Facts
from requant.recipes.forced import with_forced
from requant.recipes.options import Overrides
from requant.recipes.table import RECIPES, Recipe

#: The recipes convert_hf_to_gguf.py makes by itself (`--outtype`), by rules of its own.
CONVERTED: Final = frozenset({"F32", "F16", "BF16", "Q8_0"})

_ALWAYS_F32: Final = re.compile(
    r"""(?x)
    blk\.\d+\.(?:ffn_gate_inp(?:_shexp)?|ssm_conv1d(?:_[qkv])?|shortconv\.conv|altup_(?:correct|predict)_coef
             |indexer\.proj|time_mix_(?:first|w1|w2|decay_w1|decay_w2|lerp_fused))\.weight
    | posnet\.\d+\.norm[12]\.weight
    | (?:[va]\.)?position_embd\.weight
    | token_types\.weight
    """,
    re.ASCII,
)

#: Whole numbers, not weights: which experts each token goes to.
_TABLES: Final = re.compile(r"blk\.\d+\.ffn_gate_tid2eid\.weight", re.ASCII)


def choose_converted(
    recipe: Recipe,
    tensors: Sequence[Wanted],
    facts: Facts,
    overrides: Overrides | None = None,
    importance: Importance | None = None,
) -> tuple[Choice, ...]:
    """What each tensor of an HF checkpoint becomes, in the order of `tensors`.

    tensors: in GGML naming, with the encoding of their source. F32, F16, BF16 and Q8_0 are those of
    convert_hf_to_gguf.py; other recipes are that script's lossless output put through llama-quantize; COPY is that
    output itself, but keeps quantized tensors in blocks where these hold the same values.
    Raises `PlanError` as `choose_encodings` does.
    """
    overrides = overrides or Overrides()
    keep = exact if recipe.main is None else lambda tensor: lossless(tensor.encoding)
    dense = [Wanted(tensor.name, tensor.shape, converted(tensor, keep(tensor)).encoding) for tensor in tensors]
    mixed = choose_encodings(recipe, dense, facts, overrides, importance)
    if recipe.name not in CONVERTED or recipe.main is None:
        return with_forced(mixed, tensors, recipe, facts, overrides)
    # an option decides where it makes a difference, the script's own rules decide elsewhere
    unasked = choose_encodings(recipe, dense, facts, Overrides(), importance)
    chosen = tuple(
        converted(tensor, recipe.main) if choice == usual else choice
        for tensor, choice, usual in zip(tensors, mixed, unasked, strict=True)
    )
    return with_forced(chosen, tensors, recipe, facts, overrides)


def converted(tensor: Wanted, main: Encoding) -> Choice:
    """What convert_hf_to_gguf.py makes of one tensor when most become `main`."""
    if tensor.encoding == DENSE["I32"] and _TABLES.fullmatch(tensor.name):
        return Choice(tensor.encoding, "integers")
    if len(tensor.shape) <= 1:
        return Choice(F32, "one-dimensional")
    if tensor.name.endswith("_norm.weight"):
        return Choice(F32, "a norm")
    if _ALWAYS_F32.fullmatch(tensor.name):
        return Choice(F32, "always F32")
    if not tensor.name.endswith((".weight", ".lora_a", ".lora_b")):
        return Choice(F32, "not a weight")
    return fitted(main, tensor)


def own_file_type(tensors: Sequence[Wanted]) -> dict[str, Typed]:
    """`general.file_type` where convert_hf_to_gguf.py has one for the quantization of the source: experts in MXFP4.

    tensors: with the encodings they will have.
    """
    if any(tensor.encoding == BLOCKS["MXFP4"] and len(tensor.shape) > 2 for tensor in tensors):
        return {"general.file_type": Typed("u32", RECIPES["MXFP4_MOE"].file_type or 0)}
    return {}


def lossless(source: Encoding) -> Encoding:
    """The narrowest dense type of GGUF models that stores every value of `source`."""
    return next((dense for dense in (F16, BF16) if holds(source, dense)), F32)


def exact(tensor: Wanted) -> Encoding:
    """The smallest encoding in a GGUF that stores every value of a tensor: blocks that take its codes, or dense."""
    if not isinstance(tensor.encoding, Dense):
        for block in sorted(BLOCKS.values(), key=lambda block: block.bits_per_weight):
            if holds(tensor.encoding, block) and fits(block, tensor.shape):
                return block
    return lossless(tensor.encoding)
