"""How long a plan takes that moves nothing: a decoder of 1,000 tensors and a mixture of experts of 60,000.

    python benchmarks/planning.py

Writes the headers of two folders whose tensors are holes, plans their conversion (`--dry-run`) in a fresh process, and
says what that took beside a Python that does nothing: processor seconds, which other processes on the machine change
little, and wall seconds. The best of three.
"""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HIDDEN, FFN, VOCABULARY, HEAD = 64, 32, 96, 16
RUNS = 3


def shapes(layers: int, experts: int) -> dict[str, list[int]]:
    """Tensors of a Qwen 3, with experts or without."""
    found = {"model.embed_tokens.weight": [VOCABULARY, HIDDEN], "model.norm.weight": [HIDDEN]}
    found["lm_head.weight"] = [VOCABULARY, HIDDEN]
    for n in range(layers):
        layer = f"model.layers.{n}."
        found |= {f"{layer}{name}_layernorm.weight": [HIDDEN] for name in ("input", "post_attention")}
        rows = {"q": HIDDEN, "k": HIDDEN // 2, "v": HIDDEN // 2, "o": HIDDEN}
        found |= {f"{layer}self_attn.{part}_proj.weight": [count, HIDDEN] for part, count in rows.items()}
        found |= {f"{layer}self_attn.{part}_norm.weight": [HEAD] for part in "qk"}
        modules = [f"mlp.experts.{e}" for e in range(experts)] or ["mlp"]
        found |= {f"{layer}mlp.gate.weight": [experts, HIDDEN]} if experts else {}
        for module in modules:
            found |= {f"{layer}{module}.{part}_proj.weight": [FFN, HIDDEN] for part in ("gate", "up")}
            found[f"{layer}{module}.down_proj.weight"] = [HIDDEN, FFN]
    return found


def write(folder: Path, layers: int, experts: int) -> int:
    """The folder, and how many tensors it has."""
    end, header, tensors = 0, {}, shapes(layers, experts)
    for name, shape in tensors.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    kind = ("Qwen3MoeForCausalLM", "qwen3_moe") if experts else ("Qwen3ForCausalLM", "qwen3")
    config = {"architectures": [kind[0]], "model_type": kind[1], "hidden_size": HIDDEN, "intermediate_size": FFN}
    config |= {"num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": HEAD}
    config |= {"moe_intermediate_size": FFN, "num_experts": experts, "num_experts_per_tok": 8, "norm_topk_prob": True}
    config |= {"max_position_embeddings": 2048, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-6, "rope_theta": 1e4}
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    return len(tensors)


def cost(*words: str) -> tuple[float, float]:
    """Processor and wall seconds of a Python with these words, the best of some runs."""
    found = []
    for _ in range(RUNS):
        before, start = os.times(), time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        found.append((used, time.perf_counter() - start))
    return min(used for used, _ in found), min(wall for _, wall in found)


def main() -> None:
    """One line for each folder."""
    nothing = cost("-c", "pass")
    for layers, experts in ((90, 0), (52, 384)):
        with tempfile.TemporaryDirectory() as scratch:
            count = write(Path(scratch), layers, experts)
            made = ("convert", scratch, f"{scratch}/model.gguf", "--to", "F16", "--no-vocab", "--dry-run", "--quiet")
            used, wall = cost("-m", "requant", *made)
        processor, clock = used - nothing[0], wall - nothing[1]
        print(f"{count:,} tensors: {processor:.2f} processor seconds, {clock:.2f} s, beyond Python's own", flush=True)


if __name__ == "__main__":
    main()
