"""Names that other libraries give tensors, told by what no family of transformers has.

Facts: mlx-lm 0.32.2 (`switch_mlp`, the halves of `kv_b_proj` of DeepSeek), Mistral's and Meta's own releases
(`consolidated.safetensors`, `consolidated.00.pth`), Megatron Core and the older
Megatron-LM (NeMo's exports too), ggml.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from requant.errors import UnsupportedError

#: (whose names, a pattern for whole names, the next move where there is one)
_LIBRARIES: Final = tuple(
    (library, re.compile(pattern, re.ASCII), hint)
    for library, pattern, hint in (
        (
            "MLX's",
            r"(?:.*\.)?(?:switch_mlp|switch_glu|embed_q|unembed_out)\..*",
            "convert the model that it was made of, as transformers stores it",
        ),
        (
            "Mistral's or Meta's own (consolidated)",
            r"tok_embeddings\.weight|layers\.\d+\.(?:attention\.w[qkvo]|feed_forward\.(?:experts\.\d+\.)?w[123])\.weight",
            "convert the files of the same release that are named model-…, which transformers loads; or a folder with "
            "params.json and no config.json, which is read by these names",
        ),
        (
            "Megatron's",
            r"(?:.*\.)?(?:linear_qkv|linear_fc[12]|linear_kv_up_proj|linear_q_up_proj)\..*"
            r"|(?:.*\.)?language_model\.(?:encoder|embedding)\..*"
            r"|(?:model\.|module\.)?embedding\.word_embeddings\.weight",
            "export the checkpoint to Hugging Face's format with Megatron Bridge or NeMo first",
        ),
        (
            "ggml's",
            r"blk\.\d+\.\w+\.(?:weight|bias)|token_embd\.weight",
            "convert the GGUF that the tensors are from",
        ),
    )
)


def foreign(name: str) -> tuple[str, str] | None:
    """(whose name it is, the next move) for names of other libraries."""
    return next(((library, hint) for library, pattern, hint in _LIBRARIES if pattern.fullmatch(name)), None)


def refuse_foreign(names: Iterable[str], own: Sequence[re.Pattern[str]] = ()) -> None:
    """`UnsupportedError` for the first name that is another library's: transformers would start such a layer anew.

    own: the names of the model's family, which may be like another's: LFM2 calls its matrices as Mistral does.
    """
    for name in names:
        found = foreign(name)
        if found is not None and not any(pattern.fullmatch(name) for pattern in own):
            raise UnsupportedError(
                f"tensor {name!r} has one of {found[0]} names, which this model is not known by", hint=found[1]
            )
