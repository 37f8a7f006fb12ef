"""Quantized checkpoints that are recognized and not read: by the names of their arrays, then by what config.json says.

Sources: the state dicts of exllamav3, aqlm 1.1, quip-sharp, vptq, spqr_quant, torchao 0.18, optimum-quanto 0.2, eetq,
fp_quant, amd-quark 0.13, autoawq 0.2 (`ScaledActivation`),
GPTQModel 7.7 (QQQ), paroquant 0.1, and of transformers 5.23 (HIGGS, BitNet).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NoReturn

from requant.errors import UnsupportedError
from requant.formats.folding.pool import Pool
from requant.ir import Json, Tensor

#: An array that only this family has -> (the family, arrays that a module has beside it).
_ARRAYS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "trellis": ("EXL3", ()),
    "codebooks": ("AQLM", ("codes",)),
    "Qidxs": ("QuIP#", ()),
    "Qidxs_0": ("QuIP#", ()),
    "centroids": ("VPTQ", ("indices",)),
    "centroids.weight": ("VPTQ", ()),
    "dense_weights": ("SpQR", ("row_offsets",)),
    "tables2": ("HIGGS", ("scales",)),
    "forward_hadamard_matrix": ("FP-Quant", ()),
    "weight._data": ("quanto", ("weight._scale",)),
    "weight_scales": ("EETQ", ("weight",)),
    "weight_quantizer.scale": ("Quark", ()),
    "s_channel": ("QQQ", ("B",)),
    "theta": ("ParoQuant", ("pairs",)),
    "channel_scales": ("ParoQuant", ("qweight",)),
    "act.scales": ("AWQ with divided activations", ()),
    "gelu_impl.scales": ("AWQ with divided activations", ()),
}
#: `quant_method` -> the family, for what is left of a checkpoint when every fold has taken its own.
_METHODS: Final = {
    "exl3": "EXL3",
    "aqlm": "AQLM",
    "quip": "QuIP#",
    "quip_sharp": "QuIP#",
    "vptq": "VPTQ",
    "spqr": "SpQR",
    "higgs": "HIGGS",
    "fp_quant": "FP-Quant",
    "torchao": "torchao",
    "quanto": "quanto",
    "eetq": "EETQ",
    "quark": "Quark",
    "bitnet": "BitNet",
    "sinq": "SINQ",
    "fouroversix": "Four Over Six",
    "metal": "Metal",
    "qqq": "QQQ",
    "gemma": "Gemma's quantizer",
    "humming": "Humming",
    "bitblas": "BitBLAS",
    "gptq_bitblas": "BitBLAS",
}
#: Arrays that rotate the inputs of a layer, beside whatever it is stored as -> who stores them.
_ROTATIONS: Final = {
    "hadamard_matrix": "auto-round",
    "spinquant_r1": "auto-round (SpinQuant)",
    "spinquant_r4": "auto-round (SpinQuant)",
    "input_rotation": "Quark",
    "had_K": "QuaRot",
    "rotation_matrix": "the library that wrote it",
}
_CODES: Final = ("U8", "I8", "I16", "U16", "I32", "U32", "F4", "F8_E4M3", "F8_E5M2")
#: How to come to weights that can be read; where a family has a way of its own.
_HINTS: Final = {
    "torchao": "load the model with transformers, dequantize it, and save it as safetensors",
    "EXL3": "EXL3 weights are only decoded by exllamav3 on a GPU: convert the original model instead",
    "EETQ": "its int8 weights are shuffled for one kind of GPU: convert the original model instead",
    "BitNet": "take the model's BF16 weights, which are published beside the packed ones",
}


def refuse_by_arrays(pool: Pool, config: Mapping[str, Json]) -> None:
    """Refuse modules with arrays that only one family has, before another takes some of them."""
    for suffix, (family, beside) in _ARRAYS.items():
        for module in pool.modules(suffix):
            if all(pool.get(f"{module}.{other}") is not None for other in beside):
                _refuse(pool, family, f"{module}.{suffix}")
    for name in pool.names():
        last = name.rpartition(".")[2]
        writer = next((writer for start, writer in _ROTATIONS.items() if last.startswith(start)), None)
        if writer is not None:
            raise UnsupportedError(
                f"{pool.path}: {name!r} says that {writer} has rotated the inputs of its layer, which is not read here",
                hint="dequantize the model with the library that rotated it and save it; or convert the original model",
            )


def refuse_by_method(pool: Pool, config: Mapping[str, Json]) -> None:
    """Refuse what nothing else has taken, when the configuration says who made it.

    A configuration alone refuses nothing: weights that are floats were quantized when they were loaded, not stored so.
    """
    for module in pool.modules("weight_scale"):
        weight, scale = pool.get(f"{module}.weight"), pool.need(module, "weight_scale")
        if weight is not None and weight.encoding.label == "U8" and scale.shape in ((), (1,)):
            _refuse(pool, "BitNet", weight.name)
    method = str(config.get("quant_method", "")).lower()
    if method not in _METHODS:
        return
    for name in pool.names():
        array = pool.get(name)
        if array is not None and _holds_codes(array):
            _refuse(pool, _METHODS[method], name)


def _holds_codes(array: Tensor) -> bool:
    return array.encoding.label in _CODES and len(array.shape) >= 2


def _refuse(pool: Pool, family: str, name: str) -> NoReturn:
    usual = "load the model with the library that made it, dequantize it, and save it; or convert the original model"
    raise UnsupportedError(
        f"{pool.path}: {name!r} is quantized by {family}, which is not read here", hint=_HINTS.get(family, usual)
    )
