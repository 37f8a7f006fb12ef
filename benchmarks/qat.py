"""What quantization-aware training wins over rounding afterwards: KL to the original, by recipe and seed.

    python benchmarks/qat.py --steps 300

The original is a random Llama of two layers; the student starts as its copy and learns from its logits on random
tokens, with its weights seen as the recipe stores them. KL(original ‖ student) in nats, on tokens that training has not
seen; then the trained model is converted, decoded and compared bit for bit with what training saw.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import requant
import requant.torch as rt
from tests.qat import kl, student_and_teacher, trained


def main() -> None:
    """Print a line for each recipe and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("recipes", nargs="*", default=["Q4_K", "NVFP4"])
    options = parser.parse_args()
    print("recipe  seed  rounded afterwards  trained  ratio  stored as seen")
    for recipe in options.recipes:
        for seed in range(options.seeds):
            student, teacher, held = student_and_teacher(seed)
            said = rt.fake_quantize(student, recipe)
            before = kl(student, teacher, held)
            trained(student, teacher, seed, options.steps)
            after = kl(student, teacher, held)
            same = stored_as_seen(student, recipe, said)
            print(f"{recipe:6}  {seed:4}  {before:18.5f}  {after:7.5f}  {after / before:5.2f}  {same}", flush=True)


def stored_as_seen(student: torch.nn.Module, recipe: str, names: dict[str, str]) -> bool:
    """Whether the converted model decodes to what the modules see."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.gguf"
        request = requant.Request(recipe, vocabulary=False)
        requant.execute(requant.plan_conversion(rt.checkpoint(student), "gguf", path, request))
        weights = rt.load(path)
        return all(torch.equal(weights[name], _seen(student, name)) for name in names)


def _seen(student: torch.nn.Module, name: str) -> torch.Tensor:
    owner, _, attribute = name.rpartition(".")
    found: torch.Tensor = getattr(student.get_submodule(owner), attribute)
    return found


if __name__ == "__main__":
    main()
