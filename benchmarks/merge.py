"""Merges beside mergekit 0.1.5: time, memory and every value, in one run.

    python benchmarks/merge.py --size 0.5B --folder /tmp/bench
    python benchmarks/merge.py --size 2B --method ties --folder /tmp/bench

mergekit has an environment of its own, made once in the cache with torch 2.13.0; `--mergekit PYTHON` names one that is
there already. The models are a synthetic checkpoint and two fine-tunes of it (its weights, and Gaussian differences of
a tenth of their size). Every merge is a fresh process that writes a new folder, the two sides take turns, the page
cache is warm, nothing waits to be written when one begins, and medians are compared; memory is the peak of VmHWM.
requant's time includes that the output is on the disk; mergekit's does not.

Values are compared number by number, twice: with mergekit's as it is, and with mergekit's where float32 summation moves
nothing (`exact_mergekit.py`, which is not timed). Random methods draw by themselves on both sides: of these only the
share of values that differ from the base is compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from convert import ROOT, Cost, measure, median, warm  # type: ignore[import-not-found]
from synthetic import make_checkpoint  # type: ignore[import-not-found]

#: What is installed for mergekit.
PACKAGES = ("torch==2.13.0", "mergekit==0.1.5")
EXACT = Path(__file__).with_name("exact_mergekit.py")
_HALF = {"weight": 0.5, "density": 0.5}
_ALL = ("base", "a", "b")
#: method -> models, base, parameters of every model, parameters of all
METHODS: dict[str, tuple[tuple[str, ...], bool, dict[str, float], dict[str, float]]] = {
    "ties": (_ALL, True, _HALF, {}),
    "dare_ties": (_ALL, True, _HALF, {}),
    "slerp": (("a", "b"), True, {}, {"t": 0.4}),
    "linear": (_ALL, False, {"weight": 0.5}, {}),
    "task_arithmetic": (_ALL, True, {"weight": 0.5}, {}),
    "breadcrumbs": (_ALL, True, _HALF, {}),
    "breadcrumbs_ties": (_ALL, True, _HALF, {}),
    "sce": (_ALL, True, {}, {"select_topk": 0.4}),
    "model_stock": (_ALL, True, {}, {}),
    "nuslerp": (("a", "b"), False, {"weight": 0.5}, {}),
    "multislerp": (_ALL, False, {"weight": 0.5}, {}),
    "karcher": (_ALL, False, {}, {}),
    "nearswap": (("a", "b"), True, {}, {"t": 0.001}),
    "arcee_fusion": (("a", "b"), True, {}, {}),
    "ram": (_ALL, True, {}, {}),
    "ramplus_tl": (_ALL, True, {}, {}),
    "passthrough": (("a",), False, {"scale": 0.7}, {}),
    "dare_linear": (_ALL, True, _HALF, {}),
    "della": (_ALL, True, _HALF, {}),
    "della_linear": (_ALL, True, _HALF, {}),
}
RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")


def find_mergekit(cache: Path) -> Path:
    """The interpreter of mergekit's environment, made where it is not there."""
    folder = cache / "mergekit"
    python = folder / "bin" / "python"
    if not (folder / "whole").exists():
        print("installing mergekit, once", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (folder / "whole").touch()
    return python


def make_models(folder: Path, size: str) -> dict[str, Path]:
    """A checkpoint, and two more with other weights."""
    models = {"base": make_checkpoint(folder / f"synthetic-{size}", size)}
    for seed, name in enumerate(("a", "b"), 1):
        models[name] = folder / f"synthetic-{size}-{name}"
        if not (models[name] / "config.json").exists():
            models[name].mkdir(exist_ok=True)
            for path in sorted(models["base"].iterdir(), key=lambda p: p.name == "config.json"):
                target = models[name] / path.name
                if path.suffix == ".safetensors":
                    tune(path, target, np.random.default_rng([seed, len(path.name), path.stat().st_size]))
                else:
                    target.write_bytes(path.read_bytes())
    return models


def tune(source: Path, target: Path, rng: np.random.Generator) -> None:
    """A shard with Gaussian differences, a tenth as large as its weights are."""
    with source.open("rb") as old, target.open("wb") as new:
        head = old.read(8)
        new.write(head + old.read(int.from_bytes(head, "little")))
        while chunk := old.read(1 << 24):
            values = (np.frombuffer(chunk, "<u2").astype(np.uint32) << 16).view(np.float32)
            values = values + 0.1 * values.std() * rng.standard_normal(values.size, np.float32)
            bits = values.view(np.uint32)
            new.write(((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes())


def write_recipe(path: Path, method: str, models: dict[str, Path], dtype: str | None) -> Path:
    """The recipe, for both sides."""
    names, has_base, each, shared = METHODS[method]
    inputs: list[dict[str, Any]] = [{"model": str(models[name])} for name in names]
    for entry, name in zip(inputs, names, strict=True):
        if each and not (has_base and name == names[0]):
            entry["parameters"] = each
    recipe: dict[str, Any] = {"merge_method": method, "models": inputs, "parameters": shared, "out_dtype": "bfloat16"}
    if has_base:
        recipe["base_model"] = inputs[0]["model"]
    if dtype:
        recipe["dtype"] = dtype
    path.write_text(json.dumps(recipe))
    return path


def words_of(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor's BF16 numbers, mapped."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        for name, about in header.items():
            if name != "__metadata__":
                start, stop = about["data_offsets"]
                count = (stop - start) // 2
                found[name] = np.memmap(path, "<u2", "r", 8 + length + start, (count,))
    return found


def difference(ours: Path, theirs: Path) -> dict[str, float]:
    """How many values differ, by how many steps of BF16 at most, and by more than one."""
    one, other = words_of(ours), words_of(theirs)
    if one.keys() != other.keys():
        raise SystemExit(f"tensors differ: {sorted(one.keys() ^ other.keys())[:5]}")
    total = apart = far = most = 0
    for name, mine in one.items():
        for at in range(0, mine.size, 1 << 22):
            x, y = (ordered(np.asarray(w[at : at + (1 << 22)])) for w in (mine, other[name]))
            steps = np.abs(x - y)
            total, apart, far = total + x.size, apart + int((steps > 0).sum()), far + int((steps > 1).sum())
            most = max(most, int(steps.max(initial=0)))
    return {"values": total, "differ": apart / total, "by_more_than_one_step": far / total, "most_steps": most}


def ordered(words: np.ndarray) -> np.ndarray:
    """BF16 numbers as integers in their order."""
    signed = words.astype(np.int32)
    return np.where(signed >= 0x8000, 0x8000 - signed, signed)


def share_changed(merged: Path, base: Path) -> float:
    """How many values are not the base's."""
    one, other = words_of(merged), words_of(base)
    changed = sum(int((np.asarray(words) != np.asarray(other[name])).sum()) for name, words in one.items())
    return changed / sum(words.size for words in one.values())


def compare(
    method: str, models: dict[str, Path], folder: Path, python: Path, asked: argparse.Namespace
) -> dict[str, Any]:
    """Both sides; the figures of one method."""
    ours, theirs = folder / "requant", folder / "mergekit"
    recipe = write_recipe(folder / f"{method}.yaml", method, models, asked.dtype)
    mine = [sys.executable, "-m", "requant", "merge", recipe, "-o", ours, "--quiet"]
    options = ["--quiet", "--lazy-unpickle", "--no-copy-tokenizer", "--no-write-model-card"]
    peer = [python, "-m", "mergekit.scripts.run_yaml", recipe, theirs, *options]
    for path in models.values():
        warm(path)
    first = fresh(ours, mine, PYTHONPATH=str(ROOT))
    costs: dict[str, list[Cost]] = {"requant": [], "mergekit": []}
    for _ in range(asked.repeat):
        costs["requant"].append(fresh(ours, mine, PYTHONPATH=str(ROOT)))
        costs["mergekit"].append(fresh(theirs, peer, HF_HUB_OFFLINE="1"))
    result: dict[str, Any] = {"method": method, "requant_first_run": asdict(first)}
    result |= {name: asdict(median(found)) for name, found in costs.items()}
    mine_took, theirs_took = median(costs["requant"]), median(costs["mergekit"])
    result["times_faster"] = theirs_took.seconds / mine_took.seconds
    result["times_less_processor"] = theirs_took.processor_seconds / mine_took.processor_seconds
    if method in RANDOM:
        base = models[METHODS[method][0][0]]
        result["changed"] = {
            name: share_changed(path, base) for name, path in (("requant", ours), ("mergekit", theirs))
        }
    else:
        result["values"] = difference(ours, theirs)
        measure([python, "-P", EXACT, recipe, theirs, *options], HF_HUB_OFFLINE="1")
        result["values_with_exact_sums"] = difference(ours, theirs)
    return result


def fresh(output: Path, command: list[Any], **environment: str) -> Cost:
    """A merge to a folder that is not there, when nothing waits to be written: mergekit leaves a gigabyte after it has
    ended, for which nobody else shall wait."""
    shutil.rmtree(output, ignore_errors=True)
    os.sync()
    return measure(command, **environment)


def line(result: dict[str, Any]) -> str:
    """One method's figures for people."""
    mine, theirs = result["requant"], result["mergekit"]
    text = f"{result['method']:16} {mine['seconds']:7.2f} {theirs['seconds']:8.2f} {result['times_faster']:6.1f}x"
    text += f" {result['times_less_processor']:6.1f}x {mine['peak'] / 1e6:7.0f} {theirs['peak'] / 1e6:8.0f}  "
    if "changed" in result:
        return text + "changed: " + ", ".join(f"{name} {share:.4f}" for name, share in result["changed"].items())
    return text + "; with exact sums ".join(_told(result[key]) for key in ("values", "values_with_exact_sums"))


def _told(found: dict[str, float]) -> str:
    far = f", {found['by_more_than_one_step']:.1e} by more than a step" if found["by_more_than_one_step"] else ""
    return f"{100 * found['differ']:.4f} % differ{far}"


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", "0.5B", "2B"], default="0.5B")
    parser.add_argument("--method", action="append", choices=METHODS, help="repeatable; default: the first four")
    parser.add_argument("--dtype", help="the recipe's dtype; default: none, so that BF16 is computed in")
    parser.add_argument("--folder", type=Path, help="where models and merges go (kept); default: a temporary one")
    parser.add_argument("--cache", type=Path, default=ROOT / ".benchmarks", help="mergekit's environment")
    parser.add_argument("--mergekit", type=Path, default=os.environ.get("REQUANT_MERGEKIT"), metavar="PYTHON")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    asked.cache.mkdir(parents=True, exist_ok=True)
    python = Path(asked.mergekit or find_mergekit(asked.cache))
    with contextlib.ExitStack() as stack:
        folder = asked.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="requant-merge-")))
        folder.mkdir(parents=True, exist_ok=True)
        models = make_models(folder, asked.size)
        if not asked.json:
            print(f"{asked.size:14} requant mergekit  faster    less      MB       MB")
            print(f"{'':14}       s        s       processor requant mergekit")
        results = []
        for method in asked.method or list(METHODS)[:4]:
            results.append(compare(method, models, folder, python, asked))
            if not asked.json:
                print(line(results[-1]), flush=True)
        if asked.json:
            print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
