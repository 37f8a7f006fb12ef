"""The weights of a model of any format as a state_dict, each decoded when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from requant.calibration.skeleton import fill
from requant.encodings import Dense
from requant.ir import Checkpoint, Json, Tensor
from requant.nearest import did_you_mean
from requant.opening import open as open_model
from requant.operations.convert import Request, plan_conversion
from requant.parts import read_array
from requant.plan import Plan


class StateDict(Mapping[str, torch.Tensor]):
    """Names, as transformers saves them, to tensors that are read and decoded when they are asked for, anew each time.

    config: config.json, which of a GGUF is made of its metadata.
    """

    def __init__(self, plan: Plan, config: Mapping[str, Json], dtype: torch.dtype) -> None:
        self.config = dict(config)
        self.dtype = dtype
        self._steps = {step.target.name: step for step in plan.steps}

    def __getitem__(self, name: str) -> torch.Tensor:
        """The whole tensor, in `dtype`, integers as they are."""
        if name not in self._steps:
            hint = did_you_mean(str(name), self._steps, "iterate over it for the names")
            raise KeyError(f"no tensor is called {name!r}: {hint}")
        step = self._steps[name]
        plain = step.target.encoding.dtype if isinstance(step.target.encoding, Dense) else None
        if plain is not None and not plain.is_float and step.values.verbatim is not None:
            return torch.from_numpy(read_array(step.values.verbatim))
        out = np.empty((step.values.rows, step.values.columns), np.float32)
        fill(step.values, 0, out)
        return torch.from_numpy(out).reshape(step.target.shape).to(self.dtype)

    def __contains__(self, name: object) -> bool:
        """Whether a tensor is called so; nothing is read."""
        return name in self._steps

    def __iter__(self) -> Iterator[str]:
        """The names, in the order of a folder."""
        return iter(self._steps)

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self._steps)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor, which is not read."""
        return self._steps[name].target.shape

    def __repr__(self) -> str:
        """In a line."""
        return f"<StateDict: {len(self)} tensors in {str(self.dtype).removeprefix('torch.')}>"


def load(model: Path | str | Checkpoint[Tensor], dtype: torch.dtype = torch.float32) -> StateDict:
    """The weights of a model as plain numbers, whatever it is stored as; only headers are read now.

    model: as for `requant.open`. Raises `Error` for what cannot become a folder of transformers.
    """
    source = model if isinstance(model, Checkpoint) else open_model(model)
    plan = plan_conversion(source, "safetensors", Path("loaded"), Request("F32"))
    return StateDict(plan, plan.passes[-1].after.config, dtype)
