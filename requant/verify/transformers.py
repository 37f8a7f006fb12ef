"""An HF folder computed by transformers: a reference that shares no code with requant or llama.cpp."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from requant.errors import VerifyError
from requant.json_values import parse_json
from requant.verify.logits import Logits, pieces


def is_installed() -> bool:
    """Whether torch and transformers are there; neither is imported."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))


class Transformers:
    """A folder's model in float32 on the CPU: 4 bytes of memory for each weight.

    encoder: load it for `embed` instead of `stream_logits`. Raises VerifyError where transformers cannot load it.
    """

    def __init__(self, folder: Path, *, encoder: bool = False, threads: int | None = None) -> None:
        self.folder = folder
        with quiet():
            import torch
            import transformers

            kind = transformers.AutoModel if encoder else transformers.AutoModelForCausalLM
            try:
                self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
                model = kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
            except Exception as error:  # whatever its many loaders raise
                message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise VerifyError(f"{folder}: transformers could not load it: {message}") from error
        if threads is not None:
            torch.set_num_threads(threads)
        self._model: Any = model.eval()
        self.label = f"transformers {transformers.__version__}, float32"

    @property
    def n_vocab(self) -> int:
        """Rows of the output embeddings."""
        return int(self._model.get_output_embeddings().weight.shape[0])

    def tokenize(self, text: str) -> list[int]:
        """Token ids, with the tokenizer's special tokens around the text."""
        with quiet():
            return list(self._tokenizer(text)["input_ids"])

    def stream_logits(self, tokens: Sequence[int], *, first: int = 0) -> Iterator[Logits]:
        """One pass over the sequence; the logits come in the blocks of `requant.verify.logits.pieces`."""
        import torch

        with quiet(), torch.inference_mode():
            out = self._model(torch.tensor([list(tokens)]), logits_to_keep=len(tokens) - first, use_cache=False)
        logits = out.logits[0].float().numpy()
        for start, stop in pieces(len(tokens), first):
            yield logits[start - first : stop - first]

    def embed(self, tokens: Sequence[int]) -> Logits:
        """The sequence's embedding [1, n_embd], pooled as the folder's `1_Pooling` says (the mean without one)."""
        import torch

        with quiet(), torch.inference_mode():
            hidden = self._model(torch.tensor([list(tokens)])).last_hidden_state[0].float().numpy()
        pooled: Logits = hidden[:1] if _pools_first(self.folder) else hidden.mean(0, keepdims=True, dtype=np.float32)
        return pooled


def _pools_first(folder: Path) -> bool:
    try:
        path = folder / "1_Pooling" / "config.json"
        config = parse_json(path.read_bytes(), path)
    except OSError:
        return False
    return config.get("pooling_mode_cls_token").flag()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers warns and draws bars on stderr; what matters is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging: Any = importlib.import_module("transformers.utils.logging")
        verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)
            if bars:
                logging.enable_progress_bar()
