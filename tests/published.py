"""Tiny random models as their makers publish them: names and configurations that transformers has no class for.

Most have a twin: the transformers model that computes the same, whose tensors have other names or are fused. What such
a model predicts is what its twin predicts. One without a twin is shapes alone.
"""

import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Published:
    """config: all of config.json. twin: class, configuration class, and what differs from the common configuration.
    renamed: patterns of the twin's names, and names here. changed: what else differs. shapes: by name, of a model
    without a twin; `{n}` stands for each layer."""

    config: Mapping[str, Any]
    twin: tuple[str, str, Mapping[str, Any]] | None = None
    renamed: Sequence[tuple[str, str]] = ()
    changed: Callable[[Tensors], Tensors] = lambda tensors: tensors
    shapes: Mapping[str, tuple[int, ...]] | None = None


def random(name: str, shape: Sequence[int], *, like_one: bool = False) -> torch.Tensor:
    """Random numbers that depend on the name alone, and fit into bfloat16."""
    spread = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(shape), np.float32)
    value = torch.from_numpy(0.1 * spread if len(shape) == 1 else spread / shape[-1] ** 0.5)
    return (1 + value if like_one else value).to(torch.bfloat16).to(torch.float32)


def publish(model: Published, folder: Path) -> None:
    """`folder` has the twin, or is empty; it gets the model."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: Tensors = {}
    if model.twin is not None:
        for name, value in load_file(folder / "model.safetensors").items():
            for pattern, new in model.renamed:
                name = re.sub(pattern, new, name)
            tensors[name] = value
        (folder / "generation_config.json").unlink(missing_ok=True)
    for template, shape in (model.shapes or {}).items():
        counted = [model.config[key] for key in ("num_hidden_layers", "n_layer", "n_layers") if key in model.config]
        layers = counted[0] if "{n}" in template else 1
        for n in range(layers):
            name = template.format(n=n)
            like_one = "norm" in name.lower() and name.endswith("weight")
            tensors[name] = random(name, shape, like_one=like_one)
    tensors = model.changed(tensors)
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(dict(model.config), indent=1))


def joined(tensors: Tensors, into: str, *parts: str) -> Tensors:
    """Tensors of each layer as one, rows behind rows. into, parts: endings behind the number of the layer."""
    found = dict(tensors)
    first = re.compile(rf"(.*\.\d+\.){re.escape(parts[0])}")
    for name in tensors:
        match = first.fullmatch(name)
        if match:
            found[match[1] + into] = torch.cat([found.pop(match[1] + part) for part in parts])
    return found


def interleaved(tensors: Tensors, head: int = 32) -> Tensors:
    """Rotated in pairs of neighbours: of halves, one number of each in turn."""

    def turned(values: torch.Tensor) -> torch.Tensor:
        heads = values.reshape(-1, 2, head // 2, *values.shape[1:])
        return heads.transpose(1, 2).reshape(values.shape)

    parts = ("q_proj.weight", "k_proj.weight", "q_norm.weight", "k_norm.weight")
    return {name: turned(value) if name.endswith(parts) else value for name, value in tensors.items()}
