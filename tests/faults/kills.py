"""A conversion with `--resume` is killed at random moments, again and again, and must end in the bytes of a quiet one.

    python -m tests.faults.kills [--kills 200] [--seed 0]

One process imports requant and makes every conversion once; forks of it make them anew, each killed at a random moment,
until one comes to its end. What it said is finished must then be in the file, byte for byte, and no partial file left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tests.faults.model import digests
from tests.tiny_folder import write_tokenizer

WIDTH, MIDDLE, LAYERS = 768, 2048, 8


def write_model(folder: Path, seed: int) -> Path:
    """A llama of 55 million random weights, in BF16: some 140 runs."""
    folder.mkdir()
    vocabulary = write_tokenizer(folder)
    shapes = {"model.embed_tokens": (vocabulary, WIDTH), "model.norm": (WIDTH,)}
    for n in range(LAYERS):
        block = {f"self_attn.{name}_proj": (WIDTH, WIDTH) for name in "qkvo"}
        block |= {"mlp.gate_proj": (MIDDLE, WIDTH), "mlp.up_proj": (MIDDLE, WIDTH), "mlp.down_proj": (WIDTH, MIDDLE)}
        block |= {"input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,)}
        shapes |= {f"model.layers.{n}.{name}": shape for name, shape in block.items()}
    rng = np.random.default_rng(seed)
    tensors = {
        f"{name}.weight": torch.from_numpy(rng.standard_normal(shape, np.float32) / 16).to(torch.bfloat16)
        for name, shape in shapes.items()
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": MIDDLE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "vocab_size": vocabulary,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@dataclass(frozen=True)
class Scenario:
    """A command. destination: below the folder where it writes; there: what is there before, and replaced."""

    name: str
    words: tuple[str, ...]
    destination: str
    options: tuple[str, ...] = ()
    there: bool = False


CUT = ("--max-shard-size", "20M")
SCENARIOS = (
    Scenario("one GGUF", ("convert", "{home}/one"), "out.gguf", ("--to", "Q4_K_M")),
    Scenario("split GGUF", ("convert", "{home}/one"), "out.gguf", ("--to", "Q8_0", *CUT)),
    Scenario("folder", ("convert", "{home}/one.gguf"), "out", ("--to", "F16", *CUT)),
    Scenario("folder replaced", ("convert", "{home}/one"), "out", ("--to", "F32", *CUT, "--force"), there=True),
    Scenario("two recipes", ("convert", "{home}/one"), "out-{}.gguf", ("--to", "Q4_0,Q8_0")),
    Scenario("requantized", ("requantize", "{home}/one.gguf"), "out.gguf", ("Q5_K",)),
    Scenario("merged", ("merge", "{home}/one", "{home}/two", "--method", "ties", "--base", "{home}/two", "--density",
                        "0.5", "--weight", "1", "-o"), "out", ("--to", "BF16")),
)  # fmt: skip


class Stage:
    """Where one scenario is played."""

    def __init__(self, home: Path, scenario: Scenario) -> None:
        self.home, self.scenario, self.place = home, scenario, home / "place"
        self.said = home / "said"

    def words(self, *more: str) -> list[str]:
        """The command."""
        begun = [word.replace("{home}", str(self.home)) for word in self.scenario.words]
        how = ["--threads", "2", "--json", *self.scenario.options, *more]
        return [*begun, str(self.place / self.scenario.destination), *how]

    def reset(self) -> None:
        """As before the first run."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        if self.scenario.there:
            (self.place / self.scenario.destination).mkdir()
            for name in ("config.json", "mine.txt"):
                (self.place / self.scenario.destination / name).write_text("{}")

    def run(self, words: list[str], seconds: float | None = None) -> int:
        """A fork runs the command, and is killed after so many seconds; its exit code, or minus the signal."""
        child = os.fork()
        if not child:
            self._child(words)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _child(self, words: list[str]) -> None:
        from requant.cli import main

        text = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(text, 1)
        os.dup2(text, 2)
        sys.argv = ["requant", *words]
        try:
            main.main()
        except BaseException:
            import traceback

            traceback.print_exc()
        os._exit(99)


@dataclass
class Tally:
    """What kills came to. gone_on: how many runs found something finished; resumed: how many bytes."""

    kills: int = 0
    rounds: int = 0
    gone_on: int = 0
    resumed: int = 0
    wrong: int = 0


def play(home: Path, scenario: Scenario, kills: int, dice: random.Random) -> Tally:
    """Rounds of one conversion each, until there were so many kills."""
    stage, tally = Stage(home, scenario), Tally()
    stage.reset()
    began = time.monotonic()
    code = stage.run(stage.words())
    duration = time.monotonic() - began
    assert code == 0, stage.said.read_text()
    quiet = digests(stage.place)
    while tally.kills < kills:
        stage.reset()
        tally.rounds += 1
        code = -1
        for attempt in range(50):
            end = dice.uniform(0, 1.1 * duration) if attempt < 49 and tally.kills < kills else None
            code = stage.run(stage.words("--resume"), end)
            if code != -signal.SIGKILL:
                break
            tally.kills += 1
        if code == 4 and "exists" in stage.said.read_text():  # the last kill came when all was done
            code = 0
        elif code == 0:
            text = stage.said.read_text()
            document = json.loads(text[text.index("{") :])
            resumed = max(one["resumed_bytes"] for one in document.get("receipts", [document]))
            tally.gone_on += resumed > 0
            tally.resumed += resumed
        if code or digests(stage.place) != quiet:
            tally.wrong += 1
            print(f"  {scenario.name}: exit code {code}: {stage.said.read_text()[-500:]}", flush=True)
            found = digests(stage.place)
            print({name for name in found.keys() | quiet.keys() if found.get(name) != quiet.get(name)}, flush=True)
    return tally


def main() -> int:
    """Print the figures; 1 if anything is wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    dice, total = random.Random(asked.seed), Tally()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        home = Path(folder).resolve()
        write_model(home / "one", 1)
        write_model(home / "two", 2)
        warm_up(home)
        left = asked.kills
        for number, scenario in enumerate(SCENARIOS):
            share = left // (len(SCENARIOS) - number)
            tally = play(home, scenario, share, dice)
            left -= share
            print(
                f"{scenario.name}: {tally.kills} kills in {tally.rounds} conversions, {tally.gone_on} went on from "
                f"{tally.resumed >> 20} MiB, {tally.wrong} wrong",
                flush=True,
            )
            for field in ("kills", "rounds", "gone_on", "resumed", "wrong"):
                setattr(total, field, getattr(total, field) + getattr(tally, field))
    print(f"{total.kills} kills, {total.gone_on} went on, {total.wrong} wrong")
    return int(bool(total.wrong) or not total.gone_on)


def warm_up(home: Path) -> None:
    """Have in this process what the conversions import and compile, so that no fork has to."""
    from requant import FORMATS, Request, execute, formats, plan_conversion
    from requant.cli import convert, merge, requantize
    from requant.execution import Options

    assert convert and requantize and merge
    for recipe, name in (("F16", "one.gguf"), ("Q4_K_M", "warm.gguf"), ("Q5_K_M", "warm.gguf"), ("BF16", "warm")):
        target = FORMATS["gguf" if name.endswith("gguf") else "safetensors"]
        plan = plan_conversion(formats.open(home / "one"), target, home / name, Request(recipe))
        execute(plan, Options(1), overwrite=True)


if __name__ == "__main__":
    sys.exit(main())
