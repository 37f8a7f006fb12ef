"""Layouts in which libraries store experts: what becomes of a folder of single ones."""

import json
import re
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file

_EXPERT: Final = re.compile(
    r"(?P<layer>model\.layers\.\d+\.)(?P<module>\w+)\.experts\.(?P<e>\d+)\.(?P<name>\w+)\.weight"
)
_USUAL: Final = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


def split(arrays):
    """(layer, module) -> projection -> the stack of its matrices; and everything else."""
    stacks, rest = {}, {}
    for name, array in arrays.items():
        match = _EXPERT.fullmatch(name)
        if match is None:
            rest[name] = array
            continue
        projections = stacks.setdefault((match["layer"], match["module"]), {})
        projections.setdefault(_USUAL.get(match["name"], match["name"]), {})[int(match["e"])] = array
    return {
        place: {name: torch.stack([found[e] for e in sorted(found)]) for name, found in projections.items()}
        for place, projections in stacks.items()
    }, rest


def in_memory(layer, module, stacks):
    """As transformers 5 holds them, and stores with `save_original_format=False`."""
    yield f"{layer}mlp.experts.gate_up_proj", torch.cat([stacks["gate_proj"], stacks["up_proj"]], 1)
    yield f"{layer}mlp.experts.down_proj", stacks["down_proj"]


def with_weight(layer, module, stacks):
    """The same as modules."""
    for name, array in in_memory(layer, "mlp", stacks):
        yield f"{name.replace('mlp', module)}.weight", array


def of_mlx(layer, module, stacks):
    """A stack of each projection, as mlx-lm has it."""
    for name, array in stacks.items():
        yield f"{layer}{module}.switch_mlp.{name}.weight", array


def in_stacks(layer, module, stacks):
    """The same by other names."""
    for name, array in stacks.items():
        yield f"{layer}{module}.experts.{name}", array


def number_last(layer, module, stacks):
    """As ModelOpt 0.43 names them."""
    for name, array in stacks.items():
        for e, matrix in enumerate(array):
            yield f"{layer}mlp.experts.{name}.{e}.weight", matrix


def by_usual_names(layer, module, stacks):
    """Single matrices by the names of today, as llm-compressor's linear experts have them."""
    for name, array in stacks.items():
        for e, matrix in enumerate(array):
            yield f"{layer}mlp.experts.{e}.{name}.weight", matrix


LAYOUTS: Final = {
    made.__name__: made for made in (in_memory, with_weight, of_mlx, in_stacks, number_last, by_usual_names)
}


def laid_out(source: Path, folder: Path, layout: str, quantization=None, store=None) -> Path:
    """A folder of single experts in another layout; the router of mixtral too where that is transformers' memory.

    store: what is stored of a name and a stack or a matrix, for what is quantized.
    """
    folder.mkdir()
    stacks, arrays = split(load_file(source / "model.safetensors"))
    for (layer, module), found in stacks.items():
        for name, array in LAYOUTS[layout](layer, module, found):
            arrays |= store(name, array.contiguous()) if store else {name: array}
        if layout == "in_memory" and module != "mlp":
            arrays[f"{layer}mlp.gate.weight"] = arrays.pop(f"{layer}{module}.gate.weight")
    save_file({name: array.contiguous() for name, array in arrays.items()}, folder / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    config |= {} if quantization is None else {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
