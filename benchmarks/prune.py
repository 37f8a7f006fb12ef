"""Pruning beside llm-compressor 0.14: time, memory and every weight, in one run.

    python benchmarks/prune.py --size 0.5B --folder /tmp/bench
    python benchmarks/prune.py --size 0.5B --method sparsegpt --sparsity 2:4 --folder /tmp/bench

llm-compressor has an environment of its own, made once in the cache with torch 2.13.0; `--python PYTHON` names one that
is there already. Both sides are given the same statistics, drawn at random: nothing is calibrated. On its side that is
its modifiers' own arithmetic on every linear layer, between transformers' loading and saving
(`llm_compressor_prune.py`), whose seconds are told apart. Every run is a fresh process, the two sides take turns, and
medians are compared; memory is the peak of VmHWM. How many weights differ is counted: of equal scores either side keeps
what it finds first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from dataclasses import asdict
from pathlib import Path

import numpy as np
from convert import ROOT, Cost, measure, median, warm  # type: ignore[import-not-found]
from merge import words_of  # type: ignore[import-not-found]
from synthetic import make_checkpoint, shapes_of  # type: ignore[import-not-found]

PACKAGES = ("torch==2.13.0", "llmcompressor==0.14.0.1")
PEER = Path(__file__).with_name("llm_compressor_prune.py")
#: What a layer's linear modules are called in a GGUF.
ROLES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
#: Roles that are given the same.
INPUTS = {role: role for role in ROLES.values()} | {"attn_k": "attn_q", "attn_v": "attn_q", "ffn_up": "ffn_gate"}


def find_peer(cache: Path) -> Path:
    """The interpreter of llm-compressor's environment, made where it is not there."""
    folder = cache / "llm-compressor"
    python = folder / "bin" / "python"
    if not (folder / "whole").exists():
        print("installing llm-compressor, once", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (folder / "whole").touch()
    return python


def drawn(rng: np.random.Generator, columns: int) -> np.ndarray:
    """E[x xᵀ] of some columns that go together in part, and are of very different sizes."""
    common = rng.standard_normal((columns, 256), np.float32)
    sizes = np.exp(rng.standard_normal(columns)).astype(np.float32)
    return (common @ common.T / np.float32(256) + np.eye(columns, dtype=np.float32)) * sizes * sizes[:, None]


def write_statistics(folder: Path, size: str, hessians: bool) -> tuple[Path, Path]:
    """The same numbers for requant and for its peer, by module: squares of columns, or E[x xᵀ]."""
    sys.path.insert(0, str(ROOT))
    from requant.cli.calibrate import _write
    from requant.hessians import Hessian
    from requant.importance import Importance, Measured
    from requant.sources import Memory
    from requant.statistics import Provenance, Statistics

    rng, tokens = np.random.default_rng(0), 1 << 12
    entries, held, peers, given = {}, {}, {}, {}
    for name, shape in shapes_of(size).items():
        module = name.removesuffix(".weight")
        role = ROLES.get(".".join(module.split(".")[3:]))
        if role is None:
            continue
        layer, columns = module.split(".")[2], shape[1]
        entry, shared = f"blk.{layer}.{role}.weight", (layer, INPUTS[role])
        if shared not in given:
            mean = drawn(rng, columns) if hessians else np.exp(rng.standard_normal(columns)).astype(np.float32)
            source = Memory((mean * np.float32(tokens)).astype("<f4").tobytes())
            given[shared] = mean, Hessian(entry, columns, tokens, source)
        peers[module], hessian = given[shared]
        if hessians:
            held[entry] = (hessian,)
        squares = np.diagonal(peers[module]) if hessians else peers[module]
        entries[entry] = Measured(squares[None] * np.float32(tokens), np.array([tokens]))
    importance = Importance(entries, ("drawn",), tokens // 512, 512)
    ours, theirs = folder / f"{size}-statistics.gguf", folder / f"{size}-statistics.npz"
    _write(Statistics(importance, Provenance("", (), tokens), hessians=held), ours, overwrite=True)
    np.savez(theirs, **peers)
    return ours, theirs


def differing(ours: Path, theirs: Path) -> dict[str, float]:
    """Shares of all weights: zero on one side only, and not the same numbers."""
    one, other = words_of(ours), words_of(theirs)
    if one.keys() != other.keys():
        raise SystemExit(f"tensors differ: {sorted(one.keys() ^ other.keys())[:5]}")
    total = masks = values = zeros = 0
    for name, mine in one.items():
        a, b = np.asarray(mine) & 0x7FFF, np.asarray(other[name]) & 0x7FFF
        total, zeros = total + a.size, zeros + int((a == 0).sum())
        masks, values = masks + int(((a == 0) != (b == 0)).sum()), values + int((a != b).sum())
    return {"zeros": zeros / total, "masks_differ": masks / total, "values_differ": values / total}


def compile_kernels(folder: Path, method: str, sparsity: str) -> None:
    """By pruning a tiny model, so that nothing is compiled while time is taken."""
    checkpoint = make_checkpoint(folder / "synthetic-tiny", "tiny")
    statistics, _ = write_statistics(folder, "tiny", hessians=method == "sparsegpt")
    words = [sys.executable, "-m", "requant", "prune", checkpoint, folder / "tiny-requant", "--method", method]
    words += ["--sparsity", sparsity, "--force", "--quiet"]
    measure([*words, *([] if method == "magnitude" else ["--stats", statistics])], PYTHONPATH=str(ROOT))


def compare(size: str, method: str, sparsity: str, folder: Path, peer: Path, repeat: int) -> dict:
    """Both ways, taking turns."""
    checkpoint = make_checkpoint(folder / f"synthetic-{size}", size)
    statistics, arrays = write_statistics(folder, size, hessians=method == "sparsegpt")
    ours, theirs = folder / f"{size}-requant", folder / f"{size}-peer"
    words = [sys.executable, "-m", "requant", "prune", checkpoint, ours, "--sparsity", sparsity, "--method", method]
    words += ["--force", "--quiet", *([] if method == "magnitude" else ["--stats", statistics])]
    kept, _, of = sparsity.partition(":")
    given = f"{int(of) - int(kept)}:{of}" if of else sparsity
    other = [peer, "-P", PEER, checkpoint, theirs, method, given, arrays]
    warm(checkpoint)
    compile_kernels(folder, method, sparsity)
    found: dict[str, list[Cost]] = {"requant": [], "llm-compressor": []}
    apart = []
    for _ in range(repeat):
        found["requant"].append(measure(words, PYTHONPATH=str(ROOT)))
        shutil.rmtree(theirs, ignore_errors=True)
        with tempfile.TemporaryDirectory() as log:
            told = Path(log) / "told"
            shell = ["sh", "-c", 'out=$1; shift; exec "$@" > "$out"', "sh", told, *other]
            found["llm-compressor"].append(measure(shell, PYTHONPATH=""))
            apart.append(json.loads(told.read_text().splitlines()[-1]))
    mine, peers = (median(costs) for costs in found.values())
    result = {
        "size": size,
        "method": method,
        "sparsity": sparsity,
        **{name: asdict(median(costs)) for name, costs in found.items()},
        "llm-compressor_seconds": {key: float(np.median([one[key] for one in apart])) for key in apart[0]},
        "times_faster": peers.seconds / mine.seconds,
        "times_less_processor": peers.processor_seconds / mine.processor_seconds,
        **differing(ours, theirs),
    }
    shutil.rmtree(ours)
    shutil.rmtree(theirs)
    return result


def table(result: dict) -> str:
    """One comparison for people."""
    rows = [f"{result['size']}, {result['method']}, {result['sparsity']}", "  seconds  processor s   peak MB"]
    for name in ("requant", "llm-compressor"):
        cost = result[name]
        rows.append(f"{cost['seconds']:9.2f} {cost['processor_seconds']:12.2f} {cost['peak'] / 1e6:9.0f}   {name}")
    parts = ", ".join(f"{key} {value:.1f} s" for key, value in result["llm-compressor_seconds"].items())
    rows.append(f"of llm-compressor's: {parts}, the rest is importing")
    rows.append(
        f"{result['times_faster']:.1f} times faster, {result['times_less_processor']:.1f} times less processor time; "
        f"{result['zeros']:.1%} zeros, {result['masks_differ']:.2e} of weights zero on one side only, "
        f"{result['values_differ']:.2e} not the same"
    )
    return "\n".join(rows)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", "0.2B", "0.5B", "2B"], default="0.5B")
    parser.add_argument("--method", action="append", choices=["magnitude", "wanda", "sparsegpt"], help="repeatable")
    parser.add_argument("--sparsity", action="append", help="repeatable; default 0.5")
    parser.add_argument("--folder", type=Path, help="where models go (kept); default: a temporary one")
    parser.add_argument("--cache", type=Path, default=ROOT / ".benchmarks", help="the peer's environment")
    parser.add_argument("--python", type=Path, help="an interpreter with llm-compressor")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        peer = args.python or find_peer(args.cache)
        for method in args.method or ["magnitude", "wanda"]:
            for sparsity in args.sparsity or ["0.5"]:
                result = compare(args.size, method, sparsity, folder, peer, args.repeat)
                print(json.dumps(result) if args.json else table(result), flush=True)


if __name__ == "__main__":
    main()
