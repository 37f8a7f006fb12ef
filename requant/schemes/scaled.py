"""FP8, FP8-BLOCK, W8A8, NVFP4 and MXFP4: 8 and 4 bits under scales, as transformers and vLLM load them.

FP8-BLOCK is what DeepSeek and transformers' `fp8` store; the others are compressed-tensors, with activations quantized
while the model runs (FP8, W8A8) or not at all (NVFP4, MXFP4: "A16"). gpt-oss has a way of its own to store MXFP4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from requant.encodings import BF16, Encoding
from requant.encodings.scaled import FP8_BLOCK, GPT_OSS, MXFP4, NVFP4, Scaled
from requant.errors import PlanError
from requant.ir import Json
from requant.losses import Loss, LossKind
from requant.plan import Move
from requant.schemes.compressed import Weights, compressed_config, unloaded_experts
from requant.schemes.linear import Applied, dense_like, dense_modules, is_linear, refuse_transposed
from requant.schemes.scheme import Scheme

_WEIGHTS: Final[Mapping[str, Weights]] = {
    "FP8": Weights("float-quantized", 8, "float", "channel", dynamic_activations=True),
    "W8A8": Weights("int-quantized", 8, "int", "channel", dynamic_activations=True),
    "NVFP4": Weights("nvfp4-pack-quantized", 4, "float", "tensor_group", 16, scale_dtype="torch.float8_e4m3fn"),
    "MXFP4": Weights("mxfp4-pack-quantized", 4, "float", "group", 32, scale_dtype="torch.uint8"),
}


@dataclass(frozen=True, slots=True)
class ScaledFloats(Scheme):
    """name: "FP8", "FP8-BLOCK", "W8A8", "NVFP4" or "MXFP4"."""

    name: str

    def apply(self, moves: Sequence[Move], config: Mapping[str, Json]) -> Applied:
        """Linear layers of the blocks are quantized; everything else stays as it is."""
        refuse_transposed(config, self.name)
        if self.stores_stacks(config):
            return _gpt_oss(moves)
        chosen = [self._encoding(move) for move in moves]
        losses = [
            Loss(LossKind.SUBSTITUTED, move.name, f"{encoding.label} instead of {reason}")
            for move, (encoding, reason) in zip(moves, chosen, strict=True)
            if reason
        ]
        encodings = tuple(encoding for encoding, _ in chosen)
        losses += unloaded_experts(self.name, moves, encodings)
        return Applied(encodings, self._config(dense_modules(moves, encodings)), losses=tuple(losses))

    def stores_stacks(self, config: Mapping[str, Json]) -> bool:
        """Whether this is MXFP4 of gpt-oss, which quantizes stacks of experts and nothing else."""
        return self.name == "MXFP4" and config.get("model_type") == "gpt_oss"

    def _encoding(self, move: Move) -> tuple[Encoding, str]:
        """How a tensor is stored, and, where it should have been quantized and cannot be, why not."""
        if not is_linear(move):
            return dense_like(move), ""
        wanted = self._wanted(move)
        if wanted.element == "F4" and move.shape[-1] % wanted.columns:
            return dense_like(move), f"{self.name}: rows of {move.shape[-1]} are no whole groups of {wanted.columns}"
        return wanted, ""

    def _wanted(self, move: Move) -> Scaled:
        source = move.inputs[0].encoding
        match self.name:
            case "FP8" | "W8A8":
                rows = Scaled("ct", "F8_E4M3" if self.name == "FP8" else "I8")
                if isinstance(source, Scaled) and replace(source, scale="F32") == rows:
                    return source
                return replace(rows, scale="BF16" if dense_like(move) == BF16 else "F32")
            case "FP8-BLOCK":
                return FP8_BLOCK
            case "NVFP4":
                return NVFP4
        return MXFP4

    def _config(self, dense: Sequence[str]) -> Mapping[str, Json]:
        if self.name != "FP8-BLOCK":
            return compressed_config([_WEIGHTS[self.name]], dense)
        return {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "weight_block_size": [128, 128],
            "modules_to_not_convert": list[Json](dict.fromkeys((*dense, "lm_head"))),
        }


def _gpt_oss(moves: Sequence[Move]) -> Applied:
    """As OpenAI publishes these models, and transformers loads them: the experts are MXFP4."""
    experts = (len(move.shape) == 3 and move.name.endswith(".weight") for move in moves)
    encodings = tuple(GPT_OSS if expert else dense_like(move) for move, expert in zip(moves, experts, strict=True))
    dense = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    config: dict[str, Json] = {"quant_method": "mxfp4", "modules_to_not_convert": list[Json](dense)}
    return Applied(encodings, config)


def fp8(parameters: Sequence[str]) -> ScaledFloats:
    """`FP8` (a scale for each row) and `FP8-BLOCK` (128 by 128)."""
    if list(parameters) not in ([], ["BLOCK"]):
        raise PlanError(
            f"FP8-{'-'.join(parameters)} is not understood", hint="FP8, or FP8-BLOCK for blocks of 128 by 128"
        )
    return ScaledFloats("-".join(("FP8", *parameters)))


def w8a8(parameters: Sequence[str]) -> ScaledFloats:
    """`W8A8` (integers, a scale for each row)."""
    return _plain("W8A8", parameters)


def nvfp4(parameters: Sequence[str]) -> ScaledFloats:
    """`NVFP4`."""
    return _plain("NVFP4", parameters)


def mxfp4(parameters: Sequence[str]) -> ScaledFloats:
    """`MXFP4`."""
    return _plain("MXFP4", parameters)


def _plain(name: str, parameters: Sequence[str]) -> ScaledFloats:
    if parameters:
        raise PlanError(f"{name} takes no parameters, not {'-'.join(parameters)!r}")
    return ScaledFloats(name)
