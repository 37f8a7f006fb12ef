"""Whole quantized folders beside GPTQModel's and llm-compressor's: divergence, and time for each layer.

    python -P benchmarks/folders.py FOLDER MODEL --text C4.txt --held-out WIKI.txt [--to GPTQ-4-128,...] [--layers 3]
        [--tokens 8192] [--threads 1] [--llm-compressor PYTHON] [--ways requant,gptqmodel,...] [--unpacked]

MODEL is a Hugging Face folder in F32, of which the first layers are kept; all are given the same windows of 512 tokens
of C4.txt, and quantize all layers but embedding and head as `--to` says: to GPTQ (symmetric; columns by falling
activation, GPTQModel's as they lie), to AWQ, or, beside llm-compressor's GPTQ alone, to W8A8, FP8,
NVFP4 or MXFP4, all with a damping of 0.05. transformers loads every folder and runs it in F16 (4-bit floats: BF16) with
the kernels that it has for it; divergence is that of its predictions from those of MODEL's first layers in F32, on
4,096 tokens of WIKI.txt, and of each folder it is told by how much requant's first diverges less, with the standard
error of tokens. Time is of processors, for peers without loading and saving, for requant of whole commands, the
calibration too. GPTQModel is that of tests/consumers.txt; PYTHON is of an environment with llmcompressor, which writes
folders of compressed-tensors. EXL2 is without peers: requant makes it with bits spent by predicted divergence and by
shares of outputs that are error. With `--unpacked`, and always of EXL2, transformers runs the same numbers in F32, many
times as fast, and rounds no inputs. `--ways` names those of the lines that are asked for.
FOLDER keeps everything, of one MODEL, text and number of layers; what is there already is not made again. (-P: a module
beside this one has the name of one that transformers imports.)
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

WINDOW, HELD_OUT = 512, 4096
REQUANT = [sys.executable, "-m", "requant"]
#: What requant is asked for besides, by recipe.
OURS = {
    "GPTQ": {
        "requant": [],
        "requant-stored": ["--act-order", "none"],
        "requant-stored-minmax": ["--act-order", "none", "--scales", "minmax"],
    },
    "AWQ": {"requant": ["--smooth"], "requant-feedback": ["--smooth", "--feedback"]},
    "EXL2": {"requant-gradients": [], "requant-shares": []},
}
#: What transformers multiplies in: F16, but where compressed-tensors unpacks weights as BF16.
DTYPES = {"NVFP4": torch.bfloat16, "MXFP4": torch.bfloat16}
OURS_OF_OTHERS = {
    "requant": ["--feedback"],
    "requant-nearest": ["--no-feedback"],
    "requant-stored": ["--feedback", "--act-order", "none"],
}
#: A folder whose statistics are of another one, which is rounded: what the layers before a layer give once they are.
AGAIN = {"requant-again": "requant"}
#: A folder whose statistics have gradients, and no Hessians.
GRADIENTS = "requant-gradients"


def seconds(*words: object) -> float:
    """Processor seconds of a command; raises `SystemExit` with what it said where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{words}\n{done.stderr[-3000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def once(path: Path, *words: object) -> float:
    """The same, kept beside what the command makes."""
    told = path.with_name(f"{path.name}.seconds")
    if not told.exists():
        told.write_text(str(seconds(*words)))
    return float(told.read_text())


def asked(words: argparse.Namespace, name: str) -> bool:
    """Whether there is to be such a line."""
    return words.ways is None or name in words.ways.split(",")


def by_requant(folder: Path, recipe: str, method: str, words: argparse.Namespace) -> dict[str, tuple[Path, float]]:
    """Every way of ours, by name: the folder, and processor seconds of all commands that it took."""
    ways = OURS.get(method, OURS_OF_OTHERS)
    reading = ["--text", folder / "text.txt", "--tokens", words.tokens, "--force", "--quiet"]
    made: dict[str, tuple[Path, float]] = {}

    def make(name: str, seen: Path, stats: Path, before: float) -> None:
        path = folder / f"{recipe}-{name}"
        measures = "--gradients" if name == GRADIENTS else "--hessians"
        calibrating = once(stats, *REQUANT, "calibrate", seen, "-o", stats, measures, *reading)
        how = ["--to", recipe, "--stats", stats, *ways[AGAIN.get(name, name)], "--force", "--quiet"]
        made[name] = path, before + calibrating + once(path, *REQUANT, "convert", folder / "dense", path, *how)

    for name in (one for one in ways if asked(words, one)):
        make(name, folder / "dense", folder / ("gradients.gguf" if name == GRADIENTS else "stats.gguf"), 0)
    for name, first in AGAIN.items():
        # a smoothed one's inputs are divided: statistics of it are of another model
        if asked(words, name) and first in made and "--smooth" not in ways[first]:
            rounded, processor = made[first]
            make(name, rounded, folder / f"{recipe}-stats.gguf", processor)
    return made


def by_peer(python: str, library: str, folder: Path, recipe: str) -> float:
    """Processor seconds of a peer's quantizing."""
    made, told = folder / f"{recipe}-{library}", folder / f"{recipe}-{library}.seconds"
    if not told.exists():
        script = Path(__file__).with_name("peers_quantize.py")
        words = [python, "-P", script, library, recipe, folder / "dense", made, folder / "windows.npy"]
        more = {"GPTQMODEL_CPU_WORKERS": "2"}  # it stops on two processors with fewer
        done = subprocess.run(
            [*map(str, words)], capture_output=True, text=True, check=False, cwd=folder, env=os.environ | more
        )
        if done.returncode:
            raise SystemExit(f"{words}\n{done.stderr[-3000:]}")
        told.write_text(str(json.loads(done.stdout.splitlines()[-1])[1]))
    return float(told.read_text())


def windows_of(tokenizer: object, text: str, tokens: int) -> torch.Tensor:
    """[windows, 512]."""
    ids = tokenizer(text)["input_ids"][:tokens]
    return torch.tensor(ids[: len(ids) // WINDOW * WINDOW]).reshape(-1, WINDOW)


@torch.no_grad()
def log_probabilities(path: Path, windows: torch.Tensor, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Of one window after another, [tokens, vocabulary]."""
    model = AutoModelForCausalLM.from_pretrained(path, device_map="cpu", dtype=dtype).eval()
    for row in windows:
        yield torch.log_softmax(model(row[None]).logits[0].float(), -1)


def divergence(reference: list[torch.Tensor], found: Iterable[torch.Tensor]) -> torch.Tensor:
    """Of each token."""
    return torch.cat([(own.exp() * (own - other)).sum(-1) for own, other in zip(reference, found, strict=True)])


def mean(each: torch.Tensor) -> tuple[float, float]:
    """And its standard error over tokens."""
    return float(each.mean()), float(each.std() / len(each) ** 0.5)


def unpacked(path: Path) -> Path:
    """The same numbers in F32."""
    plain = path.with_name(f"{path.name}-unpacked")
    once(plain, *REQUANT, "convert", path, plain, "--to", "F32", "--force", "--quiet")
    return plain


def compare(words: argparse.Namespace, recipe: str, reference: list[torch.Tensor], held_out: torch.Tensor) -> None:
    """A line for each folder of a recipe."""
    folder, method = words.folder, recipe.split("-")[0]
    print(f"{recipe}: {words.layers} layers, {words.tokens} tokens; KL on {held_out.numel()} others")
    made = by_requant(folder, recipe, method, words)
    peers = {} if method == "EXL2" else {"gptqmodel": sys.executable, "llmcompressor": words.llm_compressor}
    for library, python in peers.items():
        if python is not None and asked(words, library) and (library != "gptqmodel" or method in OURS):
            made[library] = folder / f"{recipe}-{library}", by_peer(python, library, folder, recipe)
    plain, first = words.unpacked or method == "EXL2", None  # which transformers does not know
    dtype = torch.float32 if plain else DTYPES.get(method, torch.float16)
    for name, (path, processor) in made.items():
        each = divergence(reference, log_probabilities(unpacked(path) if plain else path, held_out, dtype))
        first = each if first is None else first
        (kl, error), (less, less_error) = mean(each), (one / each.mean() for one in mean(each - first))
        beside = f"{less:7.1%} ± {less_error:.1%}"
        print(f"{name:24} KL {kl:.5f} ± {error:.5f}  {beside}  {processor / words.layers:7.2f} s a layer", flush=True)


def prepared(words: argparse.Namespace) -> torch.Tensor:
    """The first layers in F32, the text of so many tokens and its windows; gives what is held out."""
    dense = words.folder / "dense"
    if not (dense / "config.json").exists():
        kept = f"0-{words.layers - 1}"
        seconds(*REQUANT, "prune", words.model, dense, "--keep-layers", kept, "--quiet", "--force")
    tokenizer = AutoTokenizer.from_pretrained(dense)
    ids = tokenizer(words.text.read_text("utf-8"))["input_ids"]
    (words.folder / "text.txt").write_text(tokenizer.decode(ids[: words.tokens + 8]), "utf-8")
    seen = windows_of(tokenizer, (words.folder / "text.txt").read_text("utf-8"), words.tokens)
    np.save(words.folder / "windows.npy", seen.numpy())
    return windows_of(tokenizer, words.held_out.read_text("utf-8"), HELD_OUT)


def main() -> None:
    """All recipes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--to", default="GPTQ-4-128")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--llm-compressor")
    parser.add_argument("--ways")
    parser.add_argument("--unpacked", action="store_true")
    words = parser.parse_args()
    folder = words.folder = words.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: words.threads])
    held_out = prepared(words)
    reference = list(log_probabilities(folder / "dense", held_out, torch.float32))
    for recipe in words.to.split(","):
        compare(words, recipe, reference, held_out)


if __name__ == "__main__":
    main()
