"""Small models that llama-quantize takes, the same bytes on every machine, and importance matrices for them.

Weights come out of integer arithmetic, so that a golden of the quantized file stays valid with any numpy.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

#: name, shape, values
Tensors = Iterator[tuple[str, NDArray[np.float32]]]


def numbers(seed: int, *shape: int) -> NDArray[np.float32]:
    """Bell-shaped, about 0.1 wide, with one in 1024 ten times as large."""
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        state = np.arange(count, dtype=np.uint64) + (np.uint64(seed) << np.uint64(32)) + np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        state ^= state >> np.uint64(31)
    sums = sum((state >> np.uint64(16 * i)) & np.uint64(0xFFFF) for i in range(4))
    values = (np.asarray(sums, np.float64) - 131070) / 393216
    values[state % np.uint64(1024) == 0] *= 10
    return values.astype(np.float32).reshape(shape)


def _layer(layer: int, width: int, rows: int, ffn: int, experts: int) -> Tensors:
    seed = 1000 * (layer + 1)
    prefix = f"blk.{layer}."
    yield f"{prefix}attn_norm.weight", 1 + numbers(seed, width)
    yield f"{prefix}ffn_norm.weight", 1 + numbers(seed + 1, width)
    for i, (name, out) in enumerate({"attn_q": width, "attn_k": rows, "attn_v": rows, "attn_output": width}.items()):
        yield f"{prefix}{name}.weight", numbers(seed + 10 + i, out, width)
    many, suffix = ((experts,), "_exps") if experts else ((), "")
    if experts:
        yield f"{prefix}ffn_gate_inp.weight", numbers(seed + 20, experts, width)
    yield f"{prefix}ffn_gate{suffix}.weight", numbers(seed + 21, *many, ffn, width)
    yield f"{prefix}ffn_up{suffix}.weight", numbers(seed + 22, *many, ffn, width)
    yield f"{prefix}ffn_down{suffix}.weight", numbers(seed + 23, *many, width, ffn)


def _tensors(layers: int, width: int, rows: int, ffn: int, experts: int, output: bool) -> Tensors:
    yield "token_embd.weight", numbers(1, 48, width)
    yield "output_norm.weight", 1 + numbers(2, width)
    if output:
        yield "output.weight", numbers(3, 48, width)
    for layer in range(layers):
        yield from _layer(layer, width, rows, ffn, experts)


#: label -> layers, width, rows of keys and values, feed-forward width, experts, own output; type of the matrices
MODELS: dict[str, tuple[tuple[Any, ...], str]] = {
    "gqa": ((3, 256, 64, 256, 0, True), "BF16"),
    "experts": ((2, 256, 64, 256, 4, True), "F16"),
    "odd": ((2, 288, 144, 336, 0, False), "F32"),
}
HEADS = 4


def write_model(label: str, path: Path) -> None:
    """A GGUF without tokenizer; llama-quantize asks for none."""
    (layers, width, rows, ffn, experts, output), kind = MODELS[label]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(label)
    writer.add_block_count(layers)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS * rows // width)
    writer.add_layer_norm_rms_eps(1e-5)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
    for name, values in _tensors(layers, width, rows, ffn, experts, output):
        if kind == "F32" or values.ndim == 1 or "gate_inp" in name:
            writer.add_tensor(name, values)
        elif kind == "F16":
            writer.add_tensor(name, values.astype(np.float16))
        else:
            upper = (values.view(np.uint32) >> 16).astype(np.uint16)
            writer.add_tensor(name, upper.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    _finish(writer)


def write_imatrix(label: str, path: Path) -> None:
    """An importance matrix for everything but the token embeddings; one expert of each layer saw no token."""
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["some.txt", "more.txt"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 64)
    for seed, (name, values) in enumerate(_tensors(*MODELS[label][0])):
        if values.ndim == 1 or "token_embd" in name:
            continue
        matrices = len(values) if values.ndim == 3 else 1
        counts = np.array([[64 * ((seed + i) % matrices if matrices > 1 else 3)] for i in range(matrices)], np.float32)
        sums = numbers(5000 + seed, matrices, values.shape[-1]) ** 2 * counts
        writer.add_tensor(f"{name}.in_sum2", sums)
        writer.add_tensor(f"{name}.counts", counts)
    _finish(writer)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
