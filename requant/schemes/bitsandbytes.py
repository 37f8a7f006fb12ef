"""NF4, FP4 and INT8 as bitsandbytes stores them and transformers loads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from requant.digits import whole
from requant.encodings import BF16, F16, F32, Encoding
from requant.encodings.bitsandbytes import FourBit, RowInt8
from requant.errors import PlanError
from requant.ir import Json
from requant.plan import Move
from requant.schemes.linear import Applied, dense_like, dense_modules, is_linear, refuse_transposed
from requant.schemes.scheme import Scheme


@dataclass(frozen=True, slots=True)
class BitsAndBytes(Scheme):
    """table: "nf4", "fp4" or "int8". double: quantize the scales as well. block: numbers that share a scale.

    Routers, poolers and whatever else stays dense must be listed as such: transformers takes every other linear layer
    for quantized, and looks for its codes in vain.
    """

    table: str
    double: bool = False
    block: int = 64
    computed_in: str = field(default="bfloat16", kw_only=True)

    def apply(self, moves: Sequence[Move], config: Mapping[str, Json]) -> Applied:
        """Linear layers of the blocks become codes; everything else stays as it is."""
        refuse_transposed(config, "bitsandbytes")
        encodings = tuple(self._encoding(move) for move in moves)
        dense = [name for name in dense_modules(moves, encodings) if name != "lm_head"]
        skipped = [*dense, "lm_head"] if dense or any(move.name == "lm_head.weight" for move in moves) else []
        int8 = self.table == "int8"
        quantization: dict[str, Json] = {
            "quant_method": "bitsandbytes",
            "load_in_4bit": not int8,
            "load_in_8bit": int8,
            "_load_in_4bit": not int8,
            "_load_in_8bit": int8,
            "bnb_4bit_quant_type": "fp4" if int8 else self.table,
            "bnb_4bit_use_double_quant": self.double,
            "bnb_4bit_compute_dtype": self.computed_in,
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_threshold": 6.0,
            "llm_int8_skip_modules": list[Json](skipped) or None,
            "llm_int8_enable_fp32_cpu_offload": False,
            "llm_int8_has_fp16_weight": False,
        }
        return Applied(encodings, quantization)

    def _encoding(self, move: Move) -> Encoding:
        if not is_linear(move) or move.shape[1] < 2:
            return dense_like(move)
        if self.table == "int8":
            return RowInt8()
        source = move.inputs[0].encoding
        dtype = {BF16: "bfloat16", F16: "float16", F32: "float32"}.get(dense_like(move), "float16")
        if isinstance(source, FourBit):
            dtype = source.dtype
        return FourBit(self.table, dtype, self.block, self.double)


def nf4(parameters: Sequence[str]) -> BitsAndBytes:
    """`NF4`, `NF4-DQ`, `NF4-128`."""
    return _parsed("nf4", parameters)


def fp4(parameters: Sequence[str]) -> BitsAndBytes:
    """`FP4`, `FP4-DQ`, `FP4-128`."""
    return _parsed("fp4", parameters)


def int8(parameters: Sequence[str]) -> BitsAndBytes:
    """`INT8`."""
    if parameters:
        raise PlanError(f"INT8 takes no parameters, not {'-'.join(parameters)!r}")
    return BitsAndBytes("int8")


def _parsed(table: str, parameters: Sequence[str]) -> BitsAndBytes:
    blocks = [block for block in map(whole, parameters) if block is not None]
    strange = [text for text in parameters if text != "DQ" and whole(text) is None]
    if strange or len(blocks) > 1 or any(block not in (32, 64, 128, 256, 512, 1024, 2048, 4096) for block in blocks):
        raise PlanError(
            f"{table.upper()}-{'-'.join(parameters)} is not understood",
            hint=f"{table.upper()}; {table.upper()}-DQ quantizes the scales too; {table.upper()}-128 has blocks of 128",
        )
    return BitsAndBytes(table, "DQ" in parameters, blocks[0] if blocks else 64)
