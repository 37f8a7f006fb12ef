"""Stored arrays that make one logical tensor together: GPTQ, AWQ, EXL2, compressed-tensors, FP8, bitsandbytes, …

A quantized linear layer lies in a safetensors file as several arrays (`qweight`, `qzeros`, `scales`, …). Each family
is a *fold*: it takes the arrays it knows out of the pool, module by module, and puts one logical tensor of shape
(out_features, in_features) in. Names, dtypes and shapes decide; the configuration only settles what they leave open.
What no fold takes stays a dense tensor. The way back needs nothing here: an encoding knows its `stored_names`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from requant.encodings import DENSE, Dense
from requant.errors import UnsupportedError
from requant.formats.folding.pool import Pool
from requant.ir import Checkpoint, Tensor, flat_config
from requant.obstacle import AS_STORED, NotUnderstood

#: dtypes of models that are not quantized; every family has at least one array of another.
_PLAIN: Final = ("F32", "F16", "BF16", "F64")
#: Parts of names that only something quantized or rotated has, even where the weights are floats.
_TELLING: Final = ("scale", "_qdata", "hadamard", "rotation", "spinquant", "had_K")


def folded(checkpoint: Checkpoint[Tensor]) -> Checkpoint[Tensor]:
    """`checkpoint` with its stored arrays put together into logical tensors.

    Raises `FormatError` for what is broken, `NotUnderstood` for what is whole and means something that is not known.
    """
    pool = Pool(checkpoint)
    plain = [DENSE[label] for label in _PLAIN]
    names = "\n".join(checkpoint)
    telling = any(word in names for word in _TELLING)
    if not pool.configurations and not telling and all(tensor.encoding in plain for tensor in checkpoint.tensors):
        return checkpoint  # without importing the families, which takes as long as all else that `inspect` imports
    from requant.formats.folding.families import FOLDS

    try:
        for fold in FOLDS.values():
            fold(pool, pool.quantization)
    except UnsupportedError as error:
        refusal = UnsupportedError(str(error), hint=error.hint)
        notices = (*checkpoint.notices, f"{error}; {AS_STORED}")
        stored = replace(checkpoint, notices=notices, obstacle=refusal)
        raise NotUnderstood(str(error), hint=error.hint, stored=stored) from None
    _tell_tied(pool)
    return pool.checkpoint()


def _tell_tied(pool: Pool) -> None:
    """EXL2 folders have a quantized head, with the config.json of the model they were made from."""
    head, said = pool.get("lm_head.weight"), flat_config(pool.config).get("tie_word_embeddings")
    if head is not None and not isinstance(head.encoding, Dense) and said is True:
        pool.notices.append(
            "config.json says that lm_head is tied to the embedding; the quantized one that is stored is used"
        )
