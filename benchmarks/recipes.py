"""What every recipe loses: `python benchmarks/recipes.py MODEL IMATRIX [--recipe NAME …] [--chunks 4]`.

MODEL is a folder of unquantized weights whose rows hold whole blocks, such as `benchmarks/standin.py` makes; IMATRIX
one that `requant calibrate` makes of it, for the recipes that `recommend` makes with one. Each recipe that it knows is
made of the model and compared with the model in F32, in llama.cpp: the KL divergence of the predictions, in nats for
each token, on the text that `requant check` reads by itself. Those of folders are first taken back into a GGUF in F32.

What is printed is the table of `requant/recipes/measured.py`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from requant import formats
from requant.execution import execute
from requant.formats.imatrix import read_imatrix
from requant.operations.convert import Request, plan_conversion
from requant.recommending.devices import DEVICES
from requant.recommending.offers import Model
from requant.recommending.runtimes import RUNTIMES
from requant.verify.check import default_text
from requant.verify.llama_cpp import LlamaCpp
from requant.verify.logits import Comparison, Logits, Window, scored_blocks, windows


class Remembered:
    """A model's predictions, computed once."""

    def __init__(self, model: LlamaCpp, work: Sequence[Window]) -> None:
        self.n_vocab = model.n_vocab
        self._blocks = {w.tokens[:-1]: list(model.stream_logits(w.tokens[:-1], first=w.first)) for w in work}

    def tokenize(self, text: str) -> list[int]:
        """Never asked."""
        raise NotImplementedError

    def stream_logits(self, tokens: Sequence[int], *, first: int = 0) -> Iterator[Logits]:
        """As they were."""
        return iter(self._blocks[tuple(tokens)])


def convert(source: Path, destination: Path, form: str, request: Request) -> None:
    """As the command does it."""
    checkpoint = formats.opened(source)[1]
    execute(plan_conversion(checkpoint, form, destination, request), overwrite=True)


def made(model: Path, form: str, recipe: str, imatrix: Path, work: Path) -> Path:
    """A GGUF whose weights are those of the recipe."""
    gguf = work / "recipe.gguf"
    if form == "gguf":
        importance = read_imatrix(imatrix) if recipe in needing(model) else None
        convert(model, gguf, form, Request(recipe, importance=importance))
        return gguf
    convert(model, work / "folder", form, Request(recipe))
    convert(work / "folder", gguf, "gguf", Request("F32"))
    return gguf


@cache
def needing(model: Path) -> frozenset[str]:
    """Recipes that are made with an importance matrix."""
    runtime = RUNTIMES["llama.cpp"]
    room = runtime.room(DEVICES["cpu"], None, None, 512, 1, None)
    offers, _ = Model(formats.opened(model)[1], runtime).offers(room)
    return frozenset(offer.recipe for offer in offers if offer.importance)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("imatrix", type=Path)
    parser.add_argument("--recipe", action="append")
    parser.add_argument("--chunks", type=int, default=4)
    asked = parser.parse_args()
    table = dict.fromkeys((runtime.format, name) for runtime in RUNTIMES.values() for name in runtime.recipes)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        convert(asked.model, work / "f32.gguf", "gguf", Request("F32"))
        with LlamaCpp(work / "f32.gguf") as llama:
            cut = windows(llama.tokenize(default_text()), 512, asked.chunks, None)
            reference = Remembered(llama, cut)
        for form, recipe in table:
            if asked.recipe and recipe not in asked.recipe:
                continue
            comparison = Comparison()
            with LlamaCpp(made(asked.model, form, recipe, asked.imatrix, work)) as llama:
                for (logits, expected), targets in scored_blocks([llama, reference], cut):
                    comparison.add(logits, expected, targets)
            kl = comparison.measure().kl
            print(f'    ("{form}", "{recipe}"): {kl.value:.5f},  # ± {kl.error:.5f}', flush=True)


if __name__ == "__main__":
    main()
