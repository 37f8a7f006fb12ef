"""The whole conversion of a tiny model: requant beside llama.cpp's converter, on the same folder in one run.

    python benchmarks/tiny.py --folder /tmp/bench

A Llama of two layers with the tokenizer of SmolLM2 becomes a GGUF in BF16. Nothing is left to compute: what is measured
is the start of both programs, reading the tokenizer, the plan, and writing. The peer is `convert_hf_to_gguf.py
--outtype bf16` of the source distribution of llama-cpp-python 0.3.36 ($REQUANT_SDIST names an unpacked one), with its
own gguf-py; it needs torch and transformers. The two take turns in fresh processes after a run of each that does not
count, and medians are compared; the two files' tensors are compared byte for byte.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from convert import Cost, equal_tensors, find_sdist, measure, median
from synthetic import make_checkpoint


def main() -> None:
    """Two lines of costs, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("bench"), help="where model and results lie")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each side (default 5)")
    options = parser.parse_args()
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    source, llama_cpp = make_checkpoint(folder / "tiny", "tiny"), find_sdist(folder)
    ours, theirs = folder / "requant.gguf", folder / "llama_cpp.gguf"
    commands: dict[str, tuple[list[str | Path], dict[str, str]]] = {
        "requant": ([sys.executable, "-m", "requant", "convert", source, ours, "--to", "BF16", "--force"], {}),
        "convert_hf_to_gguf": (
            [sys.executable, llama_cpp / "convert_hf_to_gguf.py", source, "--outtype", "bf16", "--outfile", theirs],
            {"PYTHONPATH": str(llama_cpp / "gguf-py")},
        ),
    }
    found: dict[str, list[Cost]] = {name: [] for name in commands}
    for run in range(options.repeat + 1):
        for name, (command, environment) in commands.items():
            cost = measure(command, **environment)
            if run:  # the first fills caches, of both
                found[name].append(cost)
    count, differences = equal_tensors(ours, theirs)
    if differences:
        raise SystemExit("\n".join(differences))
    costs = {name: median(of) for name, of in found.items()}
    for name, cost in costs.items():
        print(f"{name}: {cost.seconds:.2f} s, {cost.processor_seconds:.2f} processor seconds, {cost.peak >> 20} MiB")
    one, other = costs.values()
    wall, processor = other.seconds / one.seconds, other.processor_seconds / one.processor_seconds
    print(f"{count} tensors, the same byte for byte; {wall:.1f} times as fast, {processor:.1f} times in processor time")


if __name__ == "__main__":
    main()
