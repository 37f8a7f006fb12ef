"""llama.cpp through the server that xllamacpp wraps, in the child process (`requant.verify.llama_child`).

For releases whose C structs were never written down: the server's HTTP answers change less. Slower, because each
position's distribution is a request of its own and comes as JSON, and the logits are log-probabilities (shifted by a
constant in each row, which no comparison of distributions sees).
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.verify.llama_capi import TESTED
from requant.verify.llama_channel import Channel, Refused


class ServerApi:
    """One model in one server; the same operations as `requant.verify.llama_capi.CApi`."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.server: Any = None
        self.n_vocab = self.letter = 0
        self.past: list[int] = []

    def load(
        self,
        model: str,
        vocab_only: bool,
        n_ctx: int,
        threads: int,
        precise: bool,
        embeddings: bool,
        measured: list[str],
    ) -> dict[str, Any]:
        """Start the server on the file."""
        import xllamacpp

        if vocab_only:
            raise Refused("this release of xllamacpp cannot load a vocabulary alone")
        if measured:
            raise Refused(f"this release of xllamacpp cannot show what matrices are given; {TESTED[-1]} can")
        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.n_parallel = model, n_ctx, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.embedding, params.warmup, params.ctx_shift = embeddings, False, False
        if precise:
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        try:
            self.server = xllamacpp.Server(params)
        except Exception as error:
            raise Refused(f"llama.cpp could not load the model: {error}") from None
        return self._describe()

    def _post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer to `body`, or to a GET without one."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.server.listening_address + path, data)
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Refused(f"llama.cpp's server: {error.read().decode('utf-8', 'replace')}") from None

    def _describe(self) -> dict[str, Any]:
        meta, props = self._post("/v1/models")["data"][0]["meta"], self._post("/props")
        self.n_vocab = meta["n_vocab"]
        self.letter = self.tokenize("a", False, False)["tokens"][-1]
        ids = {key: self._one_token(props.get(key, "")) for key in ("bos_token", "eos_token")}
        try:
            self._post("/completion", {"prompt": [0], "n_predict": 1})
            causal = True
        except Refused:
            causal = False
        return {
            "description": meta.get("ftype", ""),
            "parameters": meta["n_params"],
            "nbytes_weights": meta["size"],
            "n_vocab": self.n_vocab,
            "n_ctx_train": meta["n_ctx_train"],
            "n_embd": meta["n_embd"],
            "causal": causal,
            "bos": ids["bos_token"],
            "eos": ids["eos_token"],
            "add_bos": self.tokenize("a", True, False)["tokens"][:1] == [ids["bos_token"]],
            "chat_template": props.get("chat_template") or None,
        }

    def _one_token(self, text: str) -> int:
        tokens: list[int] = self.tokenize(text, False, True)["tokens"] if text else []
        return tokens[0] if len(tokens) == 1 else -1

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> dict[str, Any]:
        """Token ids of `text`."""
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        return {"tokens": self._post("/tokenize", body)["tokens"]}

    def pieces(self, tokens: list[int], special: bool) -> dict[str, Any]:
        """The text of each token, in hex."""
        texts = (self._post("/detokenize", {"tokens": [token]})["content"] for token in tokens)
        return {"pieces": [text.encode().hex() for text in texts]}

    def chat(self, turns: list[list[str]], reply: bool) -> dict[str, Any]:
        """Turns (role, text) in the model's chat template."""
        said = [{"role": role, "content": text} for role, text in turns]
        return {"text": self._post("/apply-template", {"messages": said, "add_generation_prompt": reply})["prompt"]}

    def evaluate(self, tokens: list[int], reset: bool, first: int) -> tuple[dict[str, Any], NDArray[np.float32]]:
        """Log-probabilities after each token from `first` on, [len(tokens) - first, n_vocab] float32."""
        start = time.perf_counter()
        history = [] if reset else self.past
        # A sampled end token, or half a character, would be answered without its distribution: make it sample an "a".
        # The distribution is that of the raw logits, before the bias.
        fixed = {"n_predict": 1, "n_probs": self.n_vocab, "cache_prompt": True, "logit_bias": [[self.letter, 1e6]]}
        rows = np.empty((max(0, len(tokens) - first), self.n_vocab), np.float32)
        for i, row in enumerate(rows, first + 1):
            answer = self._post("/completion", {"prompt": history + tokens[:i], **fixed})
            tops = answer["completion_probabilities"][0]["top_logprobs"]
            row.fill(np.nan)
            row[[top["id"] for top in tops]] = [top["logprob"] for top in tops]
        self.past = history + tokens
        return {"shape": list(rows.shape), "seconds": time.perf_counter() - start}, rows

    def embed(self, tokens: list[int]) -> tuple[dict[str, Any], NDArray[np.float32]]:
        """The sequence's pooled embedding [1, n_embd], or each token's where the model does not pool."""
        answer = self._post("/embeddings", {"input": tokens, "embd_normalize": -1})
        values = np.array(answer[0]["embedding"], np.float32)
        return {"shape": list(values.shape)}, values

    def generate(self, tokens: list[int], limit: int) -> dict[str, Any]:
        """Greedy continuation: the likeliest token each time, to an end token or `limit`."""
        body = {"prompt": tokens, "n_predict": limit, "temperature": 0, "return_tokens": True, "cache_prompt": False}
        answer = self._post("/completion", body)
        timings = answer["timings"]
        return {
            "tokens": answer["tokens"],
            "text": answer["content"],
            "prompt_seconds": timings["prompt_ms"] / 1000,
            "seconds": timings["predicted_ms"] / 1000,
        }
