"""A model run layer by layer over windows of text: forward for inputs, backward with recomputation for gradients.

Every window has the same length and is a batch by itself, so that what the model gives its layers besides the states
(masks, positions) is the same for all and is caught once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from requant.calibration.kept import Kept
from requant.calibration.outer import Outer
from requant.calibration.recording import HeadReached, Record, Recording
from requant.calibration.skeleton import Skeleton
from requant.calibration.states import States
from requant.calibration.trials import TRIALS, WINDOWS, Trial
from requant.errors import UnsupportedError, VerifyError

#: What is being done, and how much of it is.
Progress = Callable[[str, float], None]
#: Work that can be done again; it gives what is to be done once it is known to be done.
Stage = Callable[[], Callable[[], None]]


class _Caught(Exception):
    """Ends a forward pass once what it was for is known."""


class Layerwise:
    """folder: where states between layers lie: 4 bytes for each number of each token, for each layer if gradients are
    asked for, else for two. kept: where what is found is kept after every layer; what was kept is not done again."""

    def __init__(
        self,
        skeleton: Skeleton,
        windows: Sequence[Sequence[int]],
        folder: Path,
        seed: int,
        outer: Outer | None = None,
        kept: Kept | None = None,
    ) -> None:
        self._skeleton, self._folder, self._seed = skeleton, folder, seed
        self._windows = [torch.tensor([list(window)]) for window in windows]
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._around = tuple(
            name
            for name, _ in skeleton.model.named_parameters()
            if not name.startswith(f"{skeleton.layers_name}.") and name not in skeleton.tables.values()
        )
        self.record = Record(skeleton, outer)
        self._kept = kept or Kept(None, {})
        self._kept.restore(self.record)
        self._width = self._kept.width

    def run(self, gradient_windows: int, progress: Progress) -> None:
        """Sum up the inputs of every matrix; and the gradients of the first windows."""
        self._catch()
        for number, (stage, said, fraction) in enumerate(self._stages(gradient_windows), 1):
            if number > self._kept.done:
                clean_up = stage()
                self._kept.save(number, self.record, self._width)
                clean_up()  # only now: what was read must be there still if this stage comes again
            progress(said, fraction)

    def _stages(self, graded: int) -> Iterator[tuple[Stage, str, float]]:
        """In order. Each can be run again if it was ended before its end, and gives what is to be done after it."""
        layers = len(self._skeleton.layers)
        yield self._enter, "reading", 0.0
        for n in range(layers):
            yield partial(self._forward, n, graded), "reading", (n + 1) / layers
        if self._skeleton.causal:
            yield partial(self._head, graded), "reading", 1.0
        if graded:
            for n in reversed(range(layers)):
                yield partial(self._backward, n, graded), "gradients", (layers - n) / layers
            yield partial(self._leave, graded), "gradients", 1.0
            tried = min(WINDOWS * graded, len(self._windows))
            yield partial(self._try_lookups, tried), "trying", 0.0
            for n in range(layers):
                yield partial(self._try_layer, n, tried), "trying", (n + 1) / layers
            yield partial(self._try_head, tried), "trying", 1.0

    def _states(self, name: str) -> States:
        """What lies in a file of states."""
        return States(self._path(name), self._windows[0].shape[1], self._width)

    def _new_states(self, name: str, windows: int | None = None) -> States:
        """Of all windows, or of the first ones."""
        return self._states(name).make_room(windows or len(self._windows))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.states"

    @torch.no_grad()
    def _catch(self) -> None:
        """What every layer is given besides states."""
        with (
            self._skeleton.filled(*self._around) as places,
            Recording(self.record, places, inputs=False, gradients=False, lookups=False),
        ):
            calls = [self._caught(window) for window in (self._windows[0], self._windows[-1])]
            if not all(_same(one, other) for one, other in zip(*calls, strict=True)):
                raise UnsupportedError("this model gives its layers more than states, masks and positions")
            self._calls = calls[0]

    @torch.no_grad()
    def _enter(self) -> Callable[[], None]:
        """States before the first layer."""
        states: States | None = None
        with (
            self._skeleton.filled(*self._around) as places,
            Recording(self.record, places, inputs=True, gradients=False),
        ):
            for n, window in enumerate(self._windows):
                self._begin_window()
                found = self._before_first(window)
                if states is None:
                    self._width = found.shape[-1]
                    states = self._new_states("0")
                states[n] = found[0]
        self._end_layer()
        return _nothing

    def _caught(self, window: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def passing(states: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append((args, kwargs))
            return states

        with self._patched([passing] * len(self._skeleton.layers)):
            self._base()(window, use_cache=False)
        return calls

    def _before_first(self, window: Any) -> Any:
        caught: list[Any] = []

        def first(states: Any, *args: Any, **kwargs: Any) -> Any:
            caught.append(states)
            raise _Caught

        with self._patched([first]), suppress(_Caught):
            self._base()(window, use_cache=False)
        return caught[0]

    def _base(self) -> Any:
        model = self._skeleton.model
        return getattr(model, model.base_model_prefix, model) if self._skeleton.causal else model

    @contextmanager
    def _patched(self, forwards: Sequence[Callable[..., Any]]) -> Any:
        """The first layers' `forward` replaced."""
        for layer, forward in zip(self._skeleton.layers, forwards, strict=False):
            layer.forward = forward
        try:
            yield
        finally:
            for layer, _ in zip(self._skeleton.layers, forwards, strict=False):
                del layer.forward

    def _layer(self, n: int, states: Any) -> Any:
        args, kwargs = self._calls[n]
        out = self._skeleton.layers[n](states, *args, **kwargs)
        return out[0] if isinstance(out, tuple) else out

    @torch.no_grad()
    def _forward(self, n: int, keep: int) -> Callable[[], None]:
        before, after = self._states(str(n)), self._new_states(str(n + 1))
        with (
            self._skeleton.filled(f"{self._skeleton.layers_name}.{n}.") as places,
            Recording(self.record, places, inputs=True, gradients=False),
        ):
            for number in range(len(self._windows)):
                self._begin_window()
                states = before[number]
                out = self._layer(n, states)
                self.record.add_influence(n, states[0], out[0])
                after[number] = out[0]
        self._end_layer()
        if not torch.isfinite(after[0]).all():
            raise VerifyError(f"layer {n} gives NaN or infinities", hint="its weights are damaged")
        if not keep:
            return partial(self._discard, str(n))
        return partial(os.truncate, self._path(str(n)), 4 * keep * self._windows[0].shape[1] * self._width)

    def _head(self, gradient_windows: int) -> Callable[[], None]:
        """The inputs of what comes after the layers; and the gradients that begin there."""
        layers = len(self._skeleton.layers)
        last = self._states(str(layers))
        gradients = self._new_states(f"gradients{layers}", gradient_windows) if gradient_windows else None
        if gradients is not None:
            with self._skeleton.filled(*self._around, *filter(None, [self._skeleton.head])) as places:
                for number in range(gradient_windows):
                    states = last[number].requires_grad_()
                    with self._before_head(states, places, gradients=True):
                        logits = self._skeleton.model(self._windows[number], use_cache=False).logits[0]
                        logits.backward(self._probe(logits.detach(), number))
                    gradients[number] = _gradient(states)
        with self._skeleton.filled(*self._around) as places, torch.no_grad():
            for number in range(gradient_windows, len(self._windows)):
                with suppress(HeadReached), self._before_head(last[number], places, gradients=False):
                    self._skeleton.model(self._windows[number], use_cache=False)
        self._end_layer()
        return _nothing if gradient_windows else partial(self._discard, str(layers))

    @contextmanager
    def _before_head(self, states: Any, places: Mapping[int, str], *, gradients: bool) -> Iterator[None]:
        """Within, these states come out of the last layer, and what comes after it is recorded."""
        self._begin_window()
        with (
            Recording(self.record, places, inputs=True, gradients=gradients, lookups=False),
            self._ending(states),
        ):
            yield

    def _ending(self, states: Any) -> Any:
        """Within, these states come out of the last layer, and the others do nothing."""
        passing = [lambda given, *args, **kwargs: given] * (len(self._skeleton.layers) - 1)
        return self._patched([*passing, lambda given, *args, **kwargs: states])

    def _discard(self, *names: str) -> None:
        for name in names:
            self._path(name).unlink(missing_ok=True)

    def _begin_window(self) -> None:
        if self.record.outer is not None:
            self.record.outer.begin_window()

    def _end_layer(self) -> None:
        if self.record.outer is not None:
            self.record.outer.end_layer()

    def _probe(self, logits: Any, number: int) -> Any:
        """Gradients at the logits of one window: √p ε - p (√p · ε), with ε ±1 at random.

        Their covariance is diag(p) - p pᵀ: the second derivative of the KL divergence, as of labels drawn from p. But
        a drawn label says nearly nothing of a token, unless it is an unlikely one, and then much; these say as much
        every time, so that sums over as many tokens vary less.
        """
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + number) % 2**63)
        p = torch.softmax(logits, -1)
        signs = torch.randint(0, 2, p.shape, generator=generator, dtype=torch.int8).mul_(2).sub_(1)
        probe = p.sqrt().mul_(signs)
        return probe.addcmul_(p, probe.sum(-1, keepdim=True), value=-1)

    def _backward(self, n: int, windows: int) -> Callable[[], None]:
        after, before = self._states(f"gradients{n + 1}"), self._states(str(n))
        gradients = self._new_states(f"gradients{n}", windows)
        with (
            self._skeleton.filled(f"{self._skeleton.layers_name}.{n}.") as places,
            Recording(self.record, places, inputs=False, gradients=True),
        ):
            for number in range(windows):
                states = before[number].requires_grad_()
                self._layer(n, states).backward(after[number])
                gradients[number] = _gradient(states)
        return partial(self._discard, str(n), f"gradients{n + 1}")

    def _leave(self, windows: int) -> Callable[[], None]:
        """Gradients from the first layer's input to what the embeddings looked up."""
        gradients = self._states("gradients0")
        with (
            self._skeleton.filled(*self._around) as places,
            Recording(self.record, places, inputs=False, gradients=True),
        ):
            for number in range(windows):
                found = self._before_first(self._windows[number])
                found.backward(gradients[number])
        return partial(self._discard, "gradients0")

    def _trials(self, tried: int) -> list[Trial]:
        length = self._windows[0].shape[1]
        return [Trial(name, self.record, length * len(self._windows), length * tried) for name in TRIALS]

    @torch.no_grad()
    def _try_lookups(self, tried: int) -> Callable[[], None]:
        """States before the first layer, of a model that is rounded."""
        for trial in self._trials(tried):
            states = self._new_states(f"{trial.name}0", tried)
            with (
                self._skeleton.filled(*self._around) as places,
                Recording(self.record, places, inputs=False, gradients=False, lookups=False, looked_up=trial.look_up),
            ):
                for number, window in enumerate(self._windows[:tried]):
                    states[number] = self._before_first(window)[0]
        return _nothing

    @torch.no_grad()
    def _try_layer(self, n: int, tried: int) -> Callable[[], None]:
        trials = self._trials(tried)
        for trial in trials:
            before, after = self._states(f"{trial.name}{n}"), self._new_states(f"{trial.name}{n + 1}", tried)
            with self._skeleton.filled(f"{self._skeleton.layers_name}.{n}.", change=trial.round):
                for number in range(tried):
                    after[number] = self._layer(n, before[number])[0]
        return partial(self._discard, *(f"{trial.name}{n}" for trial in trials))

    @torch.no_grad()
    def _try_head(self, tried: int) -> Callable[[], None]:
        """What the model says of each window, beside what it says when it is rounded."""
        layers, trials = len(self._skeleton.layers), self._trials(tried)
        truth = self._states(str(layers))
        for trial in trials:
            states = self._states(f"{trial.name}{layers}")
            with self._skeleton.filled(*self._around, *filter(None, [self._skeleton.head])) as places:
                weight = self._skeleton.model.get_output_embeddings().weight
                plain = rounded = weight.data
                if self._skeleton.head is not None:
                    rounded = plain.clone()
                    trial.round(self._skeleton.pieces[self._skeleton.head], rounded.numpy()[None])
                for number in range(tried):
                    expected = self._logits(number, truth[number], places)
                    weight.data = rounded
                    trial.add(expected, self._logits(number, states[number], places))
                    weight.data = plain
        return partial(self._discard, *(f"{trial.name}{layers}" for trial in trials), str(layers))

    def _logits(self, number: int, states: Any, places: Mapping[int, str]) -> Any:
        """[tokens, words] of a window, where these states come out of the last layer."""
        with Recording(self.record, places, inputs=False, gradients=False, lookups=False), self._ending(states):
            return self._skeleton.model(self._windows[number], use_cache=False).logits[0]


def _nothing() -> None:
    """Where nothing is left to do."""


def _gradient(states: Any) -> Any:
    return states.grad[0]


def _same(one: Any, other: Any) -> bool:
    """Whether two things that a layer is given are equal."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.shape == other.shape and bool((one == other).all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and (not isinstance(one, bool | int | float | str | None) or one == other)
