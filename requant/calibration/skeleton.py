"""A model in transformers without weights, whose modules are filled from a plan when they are needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from requant.errors import UnsupportedError, VerifyError
from requant.expressions import Context, Form, Node, Shared
from requant.plan import Plan
from requant.sources import read
from requant.system import processors

#: Values of a tensor that are made at once.
_RUN: Final = 1 << 20
#: Rows of a table that are made at once.
_TABLE_ROWS: Final = 16
_EXPERTS: Final = re.compile(r"(.*\blayers\.\d+\.)(?:.*\.)?experts\.(gate_up_proj|down_proj)$")
#: Names of single experts, in transformers' old words and in mixtral's, of what is stacked.
_SINGLE: Final = {"gate_up_proj": (("gate_proj", "w1"), ("up_proj", "w3")), "down_proj": (("down_proj", "w2"),)}


@dataclass(frozen=True, slots=True)
class Piece:
    """Where a tensor of the plan lies in a parameter: in its matrix `matrix`, the rows `[start, stop)`."""

    name: str
    matrix: int
    start: int
    stop: int


#: Is given pieces, and the matrices [matrices, rows, columns] that they lie in.
Change = Callable[[Iterable[Piece], NDArray[np.float32]], None]


class Skeleton:
    """model: the module of transformers. layers: its decoder layers; pieces: what each parameter is made of, by name.

    plan: the model as a folder of plain numbers, whose expressions are read when a module is filled; nothing of it is
    written but configuration and tokenizer, into `folder`. tables: names of the embedding of tokens and of the
    `head`, by the identity of what stands for them; they are as large as the vocabulary and need not be filled
    (`requant.calibration.recording`).
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        import torch
        import transformers

        from requant.verify.transformers import quiet

        self.nodes: dict[str, Node] = {step.target.name: step.values for step in plan.steps}
        write_files(plan, folder)
        with quiet(), _without_weights():
            try:
                config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
                causal = type(config) in transformers.AutoModelForCausalLM._model_mapping and _predicts(config)
                kind: Any = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
                self.model: Any = kind.from_config(config, dtype=torch.float32, experts_implementation="eager")
            except Exception as error:  # whatever its many classes raise
                message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise VerifyError(f"transformers cannot make this model: {message}") from error
        self.model.eval()
        self.causal = causal and not getattr(config, "is_encoder_decoder", False)
        self.layers_name, self.layers = self._find_layers(config)
        self.pieces = {name: self._pieces(name) for name, _ in self.model.named_parameters()}
        self._meta: dict[str, Any] = dict(self.model.named_parameters())
        embedding, self.head = (
            self._table(module) for module in (self.model.get_input_embeddings(), self.model.get_output_embeddings())
        )
        self.tables = {id(self._meta[name]): name for name in (embedding, self.head) if name is not None}

    def _table(self, module: Any) -> str | None:
        """The name of its weight; a head that is the embedding has the same."""
        import torch

        if not isinstance(module, torch.nn.Embedding | torch.nn.Linear):
            return None
        return next(name for name, weight in self._meta.items() if weight is module.weight)

    def _find_layers(self, config: Any) -> tuple[str, list[Any]]:
        import torch

        count = config.get_text_config().num_hidden_layers
        for name, module in self.model.named_modules():
            if isinstance(module, torch.nn.ModuleList) and len(module) == count:
                return name, list(module)
        raise UnsupportedError(f"{type(self.model).__name__} has no list of layers that could be run one by one")

    def _pieces(self, name: str) -> tuple[Piece, ...]:
        for known in (name, f"{self.model.base_model_prefix}.{name}", name.split(".", 1)[-1]):
            if known in self.nodes:
                shape = self.nodes[known].shape
                if len(shape) < 3:
                    return (Piece(known, 0, 0, shape[0]),)
                return tuple(Piece(known, matrix, 0, shape[1]) for matrix in range(shape[0]))
        match = _EXPERTS.match(name)
        if match is not None and (found := self._experts(match[1], match[2])):
            return found
        renamed = next((one for one in self.nodes if one.replace(".block_sparse_moe.", ".mlp.") == name), None)
        if renamed is not None:
            return (Piece(renamed, 0, 0, self.nodes[renamed].shape[0]),)
        raise UnsupportedError(f"transformers' {type(self.model).__name__} has {name}, which the model has not")

    def _experts(self, layer: str, kind: str) -> tuple[Piece, ...]:
        """Single experts as parts of a stack."""
        found = []
        for place, words in enumerate(_SINGLE[kind]):
            pattern = re.compile(rf"{re.escape(layer)}(?:.*\.)?experts\.(\d+)\.(?:{'|'.join(words)})\.weight$")
            for name, node in self.nodes.items():
                if match := pattern.match(name):
                    rows = node.shape[0]
                    found.append(Piece(name, int(match[1]), place * rows, (place + 1) * rows))
        return tuple(found)

    @contextmanager
    def filled(self, *prefixes: str, change: Change | None = None) -> Iterator[dict[int, str]]:
        """The parameters whose names begin with a prefix have their values within; their storage -> their name.

        change: is given the matrices of each, and what they are made of, and may change them.
        """
        import torch

        places: dict[int, str] = {}
        changed = []
        for name, parameter in self._meta.items():
            if not name.startswith(prefixes):
                continue
            made = self._values(name, tuple(parameter.shape))
            if change is not None and made.ndim > 1:
                change(self.pieces[name], made.reshape(-1, *made.shape[-2:]))
            values = torch.from_numpy(made)
            places[values.untyped_storage().data_ptr()] = name
            filled = torch.nn.Parameter(values, requires_grad=False)
            for module in self.model.modules():
                for key, own in module._parameters.items():
                    if own is parameter:
                        module._parameters[key] = filled
                        changed.append((module, key, parameter))
        try:
            yield places
        finally:
            for module, key, parameter in changed:
                module._parameters[key] = parameter

    def rows(self, name: str, ids: Any) -> Any:
        """What a table that is not filled has for these tokens, [*ids, columns]."""
        import torch

        node = self.nodes[self.pieces[name][0].name]
        found, places = np.unique(ids.numpy(), return_inverse=True)
        if found[-1] >= node.shape[0]:
            raise UnsupportedError(f"{name} has {node.shape[0]} rows, and the text token {found[-1]}")
        out = np.empty((len(found), node.columns), np.float32)
        length = node.granule * -(-_TABLE_ROWS // node.granule)
        shared = Shared()
        for start in np.unique(found // length * length).tolist():
            part = np.empty((min(length, node.shape[0] - start), node.columns), np.float32)
            node.fill(Form.VALUES, range(start, start + len(part)), part, Context(shared=shared))
            inside = (found >= start) & (found < start + len(part))
            out[inside] = part[found[inside] - start]
        _check_finite(name, out)
        return torch.from_numpy(out[places.reshape(ids.shape)])

    def _values(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        out = np.empty(shape, np.float32)
        stack = out.reshape(-1, *shape[-2:]) if len(shape) > 2 else out.reshape(1, shape[0], -1)
        for piece in self.pieces[name]:
            node, target = self.nodes[piece.name], stack[piece.matrix, piece.start : piece.stop]
            if node.columns != target.shape[-1] and len(node.shape) > 1:
                raise UnsupportedError(f"{piece.name} is {list(node.shape)}, transformers' {name} {list(shape)}")
            first = piece.matrix * len(target) if len(node.shape) > 2 else 0
            fill(node, first, target if len(node.shape) > 1 else target.reshape(1, -1))
        _check_finite(name, out)
        return out


def _check_finite(name: str, values: NDArray[np.float32]) -> None:
    if not np.isfinite(values).all():
        raise VerifyError(f"{name} holds NaN or infinities", hint="the weights are damaged")


def _predicts(config: Any) -> bool:
    """Whether the class that config.json names has a head that predicts tokens, as GPT2LMHeadModel has."""
    named = (getattr(config, "architectures", None) or [""])[0]
    return not named.endswith("Model") or named.endswith("LMHeadModel")


def fill(node: Node, first: int, out: NDArray[np.float32]) -> None:
    """The rows from `first` on, by all processors."""
    shared, granule = Shared(), node.granule
    length = granule * max(1, _RUN // (granule * max(node.columns, 1)))

    def run(start: int) -> None:
        stop = min(start + length, len(out))
        node.fill(Form.VALUES, range(first + start, first + stop), out[start:stop], Context(shared=shared))

    with ThreadPoolExecutor(processors()) as pool:
        list(pool.map(run, range(0, len(out), length)))


def write_files(plan: Plan, folder: Path) -> None:
    """Configuration and tokenizer, without a weight."""
    for file in plan.layout.files:
        if not file.slots:
            path = folder / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            body = b"" if file.body is None else read(file.body).tobytes()
            path.write_bytes(file.head + body)


@contextmanager
def _without_weights() -> Iterator[None]:
    """Parameters that are registered within have shapes only; buffers, such as a rope's frequencies, have values."""
    import torch

    register = torch.nn.Module.register_parameter

    def shapes_only(self: Any, name: str, parameter: Any) -> None:
        register(self, name, parameter)
        if parameter is not None and parameter.device.type != "meta":  # one that is tied stays the same
            self._parameters[name] = torch.nn.Parameter(parameter.detach().to("meta"), requires_grad=False)

    module: Any = torch.nn.Module
    module.register_parameter = shapes_only
    try:
        yield
    finally:
        module.register_parameter = register
