"""The real llama.cpp, in a process of its own.

llama.cpp (PyPI xllamacpp) can abort, run out of memory or never come back; all of that happens to the child process
`requant.verify.llama_child` and becomes a `VerifyError` here, with the end of llama.cpp's log as its hint.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

import requant
from requant.errors import UnsupportedError, VerifyError
from requant.system import apart, processors, read_at, read_pipe
from requant.verify.llama_inputs import INPUTS_BATCH, Sums
from requant.verify.logits import BATCH, Logits

LOG_TAIL = 4000  # bytes of llama.cpp's log that go into an error
Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What llama.cpp says about a model it has loaded.

    nbytes_weights: bytes of all tensors. n_ctx_train: context length in tokens. n_embd: width of an embedding.
    causal: whether it predicts the next token (an encoder such as BERT does not). bos, eos: −1 for none.
    add_bos: whether the tokenizer puts `bos` first. chat_template: its source.
    """

    description: str
    parameters: int
    nbytes_weights: int
    n_vocab: int
    n_ctx_train: int
    n_embd: int
    causal: bool
    bos: int
    eos: int
    add_bos: bool
    chat_template: str | None
    seconds: float

    @property
    def begins_with(self) -> int | None:
        """The token that comes before every text, None for none: without it, Gemma is another model."""
        return self.bos if self.add_bos else None


@dataclass(frozen=True, slots=True)
class Generation:
    """A greedy continuation: `seconds` went into `tokens`, `prompt_seconds` into the `prompt_tokens` before them."""

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    prompt_seconds: float
    seconds: float


class LlamaCpp:
    """A GGUF loaded by llama.cpp; a context manager, so that the child process ends with the block.

    vocab_only: only the tokenizer (works for files without tensors). n_ctx: tokens that fit at once.
    threads: None for all cores. precise: keep keys and values in F32 instead of llama.cpp's usual F16, for comparisons.
    embeddings: open the model for `embed`. measured: tensors whose inputs `measure` sums up, by name.
    timeout: seconds without a sign of life after which the child is killed.
    progress: called with 0…1 while the model loads and while text is generated.

    Raises UnsupportedError where xllamacpp is not installed and VerifyError where llama.cpp refuses the file or dies.
    """

    def __init__(
        self,
        model: Path,
        *,
        vocab_only: bool = False,
        n_ctx: int = 512,
        threads: int | None = None,
        precise: bool = False,
        embeddings: bool = False,
        measured: Sequence[str] = (),
        timeout: float = 600.0,
        progress: Progress | None = None,
    ) -> None:
        library, version = find_library()
        if not model.is_file():
            raise VerifyError(f"{model}: no such file")
        self.model, self.n_ctx, self.timeout, self.progress = model, n_ctx, timeout, progress
        self.label = f"{model.name} in llama.cpp"
        self.tokens_read, self.seconds_reading = 0, 0.0  # by llama_decode, for logits
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - close() ends it
        self._process = _start(library, version, self._log.fileno())
        try:
            self._receive()  # it has started
            start = time.perf_counter()
            answer = self._ask(
                "load",
                model=str(model),
                vocab_only=vocab_only,
                n_ctx=n_ctx,
                threads=threads or processors(),
                precise=precise,
                embeddings=embeddings,
                measured=list(measured),
            )
            self.info = ModelInfo(**answer, seconds=time.perf_counter() - start)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child process; harmless when it is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def adapt(self, adapter: Path) -> None:
        """Put a LoRA adapter (a GGUF) on the model, as `--lora` does."""
        self._ask("adapt", adapter=str(adapter))

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids. add_special: with the bos/eos (or cls/sep) that the file's metadata asks for.

        parse_special: text such as `<|im_end|>` becomes the control token of that name.
        """
        answer = self._ask("tokenize", text=text, add_special=add_special, parse_special=parse_special)
        return list(answer["tokens"])

    def detokenize(self, tokens: Sequence[int], *, special: bool = True) -> list[bytes]:
        """The bytes of each token; `special`: show control tokens by name instead of as nothing."""
        answer = self._ask("pieces", tokens=list(tokens), special=special)
        return [bytes.fromhex(piece) for piece in answer["pieces"]]

    def chat(self, turns: Sequence[tuple[str, str]], *, reply: bool = True) -> str | None:
        """Turns (role, text) in the model's chat template, or None where it has none that llama.cpp knows.

        reply: with what an answer begins with.
        """
        text: str | None = self._ask("chat", turns=list(turns), reply=reply)["text"]
        return text

    @property
    def n_vocab(self) -> int:
        """Columns of the logits."""
        return self.info.n_vocab

    def logits_of_batch(self, tokens: Sequence[int], *, reset: bool, first: int = 0) -> Logits:
        """Logits of the tokens from `first` on: [len(tokens) - first, n_vocab].

        At most `BATCH` tokens, which follow those of earlier calls unless `reset`.
        """
        answer, values = self._exchange("evaluate", tokens=list(tokens), reset=reset, first=first)
        self.tokens_read += len(tokens)
        self.seconds_reading += answer["seconds"]
        return values.reshape(answer["shape"])

    def stream_logits(self, tokens: Sequence[int], *, first: int = 0) -> Iterator[Logits]:
        """The logits of one sequence, batch by batch and computed when asked for: [≤ BATCH, n_vocab] each.

        Tokens before `first` are read, but give no logits. Row i predicts token i + 1.
        """
        for start in range(0, len(tokens), BATCH):
            piece = tokens[start : start + BATCH]
            rows = self.logits_of_batch(piece, reset=start == 0, first=max(0, min(first - start, len(piece))))
            if len(rows):
                yield rows

    def logits(self, tokens: Sequence[int], *, first: int = 0) -> Logits:
        """All logits of one short sequence: [len(tokens) - first, n_vocab]."""
        if len(tokens) > self.n_ctx:
            raise VerifyError(f"{len(tokens)} tokens do not fit into a context of {self.n_ctx}")
        nothing = np.empty((0, self.info.n_vocab), np.float32)
        return np.concatenate([nothing, *self.stream_logits(tokens, first=first)])

    def embed(self, tokens: Sequence[int]) -> Logits:
        """The pooled, not normalized embedding [1, n_embd], or [len(tokens), n_embd] without pooling."""
        answer, values = self._exchange("embed", tokens=list(tokens))
        return values.reshape(answer["shape"])

    def measure(self, tokens: Sequence[int]) -> None:
        """Sum up what the tensors named at the opening are given for one sequence, which an encoder sees at once."""
        for start in range(0, len(tokens), self.measured_at_once):
            piece = tokens[start : start + self.measured_at_once]
            self.seconds_reading += self._ask("measure", tokens=list(piece), reset=start == 0)["seconds"]
            self.tokens_read += len(piece)

    @property
    def measured_at_once(self) -> int:
        """Tokens of one evaluation."""
        return INPUTS_BATCH if self.info.causal else self.n_ctx

    def measured(self) -> dict[str, Sums]:
        """What `measure` has summed up since this was last asked, as llama-imatrix does; nothing of what was never
        multiplied."""
        answer, payload = self._exchange("measured")
        values, found, start = payload.view(np.float64), dict[str, Sums](), 0
        for name, rows, columns, counts in answer["entries"]:
            sums = values[start : start + rows * columns].reshape(rows, columns)
            found[name] = Sums(sums, np.array(counts, np.int64))
            start += sums.size
        return found

    def generate(self, tokens: Sequence[int], limit: int) -> Generation:
        """Continue `tokens` with the likeliest token each time, to an end token or `limit` tokens."""
        if len(tokens) + limit > self.n_ctx:
            raise VerifyError(f"{len(tokens)} + {limit} tokens do not fit into a context of {self.n_ctx}")
        answer = self._ask("generate", tokens=list(tokens), limit=limit)
        return Generation(
            answer["text"], tuple(answer["tokens"]), len(tokens), answer["prompt_seconds"], answer["seconds"]
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings in llama.cpp's log so far, each once; not those about the context, which we chose."""
        lines = (line.strip() for line in self._log_text().splitlines())
        found = (line.removeprefix("[warning] ") for line in lines if line.startswith("[warning] "))
        return tuple(dict.fromkeys(line for line in found if "n_ctx" not in line))

    def _log_text(self, last: int | None = None) -> str:
        size = os.fstat(self._log.fileno()).st_size
        start = max(0, size - last) if last else 0
        return read_at(self._log.fileno(), size - start, start).decode("utf-8", "replace")

    def _ask(self, operation: str, **arguments: object) -> dict[str, Any]:
        return self._exchange(operation, **arguments)[0]

    def _exchange(self, operation: str, **arguments: object) -> tuple[dict[str, Any], Logits]:
        request = json.dumps({"do": operation, **arguments}).encode()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(struct.pack("<I", len(request)) + request)
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):  # ValueError: closed here
            raise self._died() from None
        return self._receive()

    def _receive(self) -> tuple[dict[str, Any], Logits]:
        """The answer to the last request, passing progress on."""
        while True:
            (length,) = struct.unpack("<I", self._read(4))
            message = json.loads(self._read(length))
            if "error" in message:
                raise VerifyError(f"{self.model}: {message['error']}", hint=self._hint(tail=0))
            if "ok" in message:
                payload = self._read(message.get("nbytes", 0))
                return message["ok"], np.frombuffer(payload, np.float32)
            if self.progress is not None:
                self.progress(message["progress"])

    def _read(self, n: int) -> bytearray:
        """Exactly `n` bytes; the clock starts again whenever some arrive."""
        assert self._process.stdout is not None
        out = bytearray(n)
        view, done, pipe = memoryview(out), 0, self._process.stdout.fileno()
        while done < n:
            arrived = read_pipe(pipe, min(n - done, 1 << 20), self.timeout)
            if arrived is None:
                self._process.kill()
                raise VerifyError(
                    f"{self.model}: llama.cpp gave no sign of life for {self.timeout:g} s", hint=self._hint()
                )
            if not arrived:
                raise self._died()
            view[done : done + len(arrived)] = arrived
            done += len(arrived)
        return out

    def _died(self) -> VerifyError:
        code = self._process.wait()
        how = f"ended with exit code {code}"
        if code < 0:
            name = signal.Signals(-code).name
            how = f"was killed by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")
        return VerifyError(f"{self.model}: the llama.cpp process {how}", hint=self._hint())

    def _hint(self, tail: int = 6) -> str:
        """The log's errors, or its last lines where none is marked."""
        lines = [line.strip() for line in self._log_text(LOG_TAIL).splitlines()]
        errors = [line.removeprefix("[error] ") for line in lines if line.startswith("[error] ")]
        shown = errors or lines[len(lines) - tail :]
        return "llama.cpp's log: " + " / ".join(shown) if shown else ""


def find_library() -> tuple[Path, str]:
    """xllamacpp's shared object, which exports llama.cpp's C API, and its release; the package is not imported."""
    spec = importlib.util.find_spec("xllamacpp")
    folders = spec.submodule_search_locations if spec else None
    found = [
        path
        for folder in folders or ()
        for path in sorted(Path(folder).glob("xllamacpp*.*"))
        if path.suffix in (".so", ".pyd")
    ]
    if not found:
        raise UnsupportedError(
            "running a model in llama.cpp needs the package xllamacpp", hint='pip install "requant[llama]"'
        )
    return found[0], importlib.metadata.version("xllamacpp")


def _start(library: Path, version: str, log: int) -> subprocess.Popen[bytes]:
    """The child, in a session of its own: Ctrl-C is ours to handle."""
    root = str(Path(requant.__file__).parents[1])
    paths = filter(None, [root, os.environ.get("PYTHONPATH")])
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "requant.verify.llama_child", str(library), version],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "GGML_NO_BACKTRACE": "1",  # without it an abort starts a debugger
        },
        **apart(),
    )
