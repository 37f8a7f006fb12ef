"""llama.cpp through the C API of xllamacpp's shared object, in the child process (`requant.verify.llama_child`).

Parameter structs are passed by value and change between releases, so this is used only with those in `TESTED`, whose
layout (`include/llama.h`) is written down here.
"""

from __future__ import annotations

import ctypes
import os
import time
from ctypes import CFUNCTYPE, POINTER, c_bool, c_char_p, c_float, c_int8, c_int32, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from requant.verify.llama_channel import Channel, Refused
from requant.verify.llama_inputs import INPUTS_BATCH, Inputs
from requant.verify.logits import BATCH

TESTED = ("2026.10.11549",)  # of xllamacpp; the build number in its shared object is always 0


class ModelParams(ctypes.Structure):
    """`llama_model_params`: what is set here, at its offset, and room for the rest (see `Params`)."""

    _fields_ = [
        ("_head", ctypes.c_ubyte * 48),
        ("progress_callback", c_void_p),  # 48
        ("progress_callback_user_data", c_void_p),  # 56
        ("kv_overrides", c_void_p),  # 64
        ("vocab_only", c_bool),  # 72
        ("check_tensors", c_bool),  # 73
        ("_tail", ctypes.c_ubyte * 950),
    ]


class ContextParams(ctypes.Structure):
    """`llama_context_params`, likewise. On x86-64 and AArch64 a callee reads its own prefix of a longer struct."""

    _fields_ = [
        ("n_ctx", ctypes.c_uint32),  # 0
        ("n_batch", ctypes.c_uint32),  # 4
        ("n_ubatch", ctypes.c_uint32),  # 8
        ("_head", ctypes.c_ubyte * 16),
        ("n_threads", c_int32),  # 28
        ("n_threads_batch", c_int32),  # 32
        ("_kinds", ctypes.c_ubyte * 16),
        ("flash_attn_type", c_int32),  # 52
        ("_rope", ctypes.c_ubyte * 32),
        ("cb_eval", c_void_p),  # 88
        ("cb_eval_user_data", c_void_p),  # 96
        ("type_k", c_int32),  # 104
        ("type_v", c_int32),  # 108
        ("_callbacks", ctypes.c_ubyte * 24),
        ("embeddings", c_bool),  # 136
        ("_flags", ctypes.c_ubyte * 3),
        ("swa_full", c_bool),  # 140
        ("_tail", ctypes.c_ubyte * 883),
    ]


class Batch(ctypes.Structure):
    """`llama_batch`."""

    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    ]


class ChatMessage(ctypes.Structure):
    """`llama_chat_message`."""

    _fields_ = [("role", c_char_p), ("content", c_char_p)]


LogCallback = CFUNCTYPE(None, c_int32, c_char_p, c_void_p)
ProgressCallback = CFUNCTYPE(c_bool, c_float, c_void_p)

# name: (result, arguments). c_void_p stands for every opaque handle.
FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "llama_backend_init": (None, []),
    "llama_log_set": (None, [LogCallback, c_void_p]),
    "llama_model_default_params": (ModelParams, []),
    "llama_context_default_params": (ContextParams, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, ModelParams]),
    "llama_init_from_model": (c_void_p, [c_void_p, ContextParams]),
    "llama_adapter_lora_init": (c_void_p, [c_void_p, c_char_p]),
    "llama_set_adapters_lora": (c_int32, [c_void_p, POINTER(c_void_p), ctypes.c_size_t, POINTER(c_float)]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_model_desc": (c_int32, [c_void_p, c_char_p, ctypes.c_size_t]),
    "llama_model_chat_template": (c_char_p, [c_void_p, c_char_p]),
    "llama_model_n_params": (ctypes.c_uint64, [c_void_p]),
    "llama_model_size": (ctypes.c_uint64, [c_void_p]),
    "llama_model_n_ctx_train": (c_int32, [c_void_p]),
    "llama_model_n_embd_out": (c_int32, [c_void_p]),
    "llama_model_n_cls_out": (ctypes.c_uint32, [c_void_p]),
    "llama_vocab_type": (c_int32, [c_void_p]),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
    "llama_vocab_bos": (c_int32, [c_void_p]),
    "llama_vocab_eos": (c_int32, [c_void_p]),
    "llama_vocab_get_add_bos": (c_bool, [c_void_p]),
    "llama_vocab_is_eog": (c_bool, [c_void_p, c_int32]),
    "llama_get_causal_attn": (c_bool, [c_void_p]),
    "llama_pooling_type": (c_int32, [c_void_p]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_clear": (None, [c_void_p, c_bool]),
    "llama_tokenize": (c_int32, [c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool]),
    "llama_token_to_piece": (c_int32, [c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool]),
    "llama_chat_apply_template": (
        c_int32,
        [c_char_p, POINTER(ChatMessage), ctypes.c_size_t, c_bool, c_char_p, c_int32],
    ),
    "llama_batch_init": (Batch, [c_int32, c_int32, c_int32]),
    "llama_decode": (c_int32, [c_void_p, Batch]),
    "llama_get_logits": (POINTER(c_float), [c_void_p]),
    "llama_get_embeddings_seq": (POINTER(c_float), [c_void_p, c_int32]),
    "llama_get_embeddings": (POINTER(c_float), [c_void_p]),
}

GGML_TYPE_F32 = 0
FLASH_ATTN_DISABLED = 0
POOLING_RANK = 4
LOG_DEBUG = 1
VOCAB_NONE = 0


class CApi:
    """One model in one context."""

    def __init__(self, path: str, channel: Channel) -> None:
        self.library = library = ctypes.CDLL(path)
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self.channel = channel
        self.on_log = LogCallback(log)
        self.on_progress = ProgressCallback(self._progress)
        library.llama_log_set(self.on_log, None)
        library.llama_backend_init()
        self.model = self.vocab = self.context = None
        self.batch, self.n_batch = Batch(), 0
        self.past = 0
        self.inputs: Inputs | None = None

    def _progress(self, fraction: float, _: object) -> bool:
        self.channel.send({"progress": fraction})
        return True

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
        """Read the file and, unless it is only a vocabulary, make a context for it."""
        if measured:
            self.inputs = Inputs(self.library, measured, lambda fraction: self.channel.send({"progress": fraction}))
        library = self.library
        params = library.llama_model_default_params()
        params.vocab_only = vocab_only
        params.progress_callback = ctypes.cast(self.on_progress, c_void_p)
        self.model = library.llama_model_load_from_file(os.fsencode(model), params)
        if not self.model:
            raise Refused("llama.cpp could not load the model")
        self.vocab = library.llama_model_get_vocab(self.model)
        if not vocab_only:
            self._open_context(n_ctx, threads, precise, embeddings)
        return self._describe()

    def adapt(self, adapter: str) -> dict[str, Any]:
        """Put a LoRA adapter on the model, as it is: its scale times one."""
        loaded = self.library.llama_adapter_lora_init(self.model, os.fsencode(adapter))
        if not loaded:
            raise Refused("llama.cpp could not load the adapter")
        if self.library.llama_set_adapters_lora(self.context, (c_void_p * 1)(loaded), 1, (c_float * 1)(1.0)):
            raise Refused("llama.cpp could not put the adapter on the model")
        return {}

    def _open_context(self, n_ctx: int, threads: int, precise: bool, embeddings: bool) -> None:
        params = self.library.llama_context_default_params()
        params.n_ctx = n_ctx
        # A model without a cache sees its whole input at once, so for embeddings a batch is the context.
        most = n_ctx if embeddings else BATCH if self.inputs is None else INPUTS_BATCH
        params.n_batch = params.n_ubatch = min(most, n_ctx)
        params.n_threads = params.n_threads_batch = threads
        params.embeddings = embeddings
        params.swa_full = False  # as in llama-server: layers with a window cache no more than they see
        if self.inputs is not None:
            params.cb_eval = ctypes.cast(self.inputs.callback, c_void_p)
        if precise:
            params.type_k = params.type_v = GGML_TYPE_F32
            params.flash_attn_type = FLASH_ATTN_DISABLED
        self.context = self.library.llama_init_from_model(self.model, params)
        if not self.context:
            raise Refused("llama.cpp could not make a context for the model")
        self.n_batch = int(params.n_batch)
        self.batch = self.library.llama_batch_init(self.n_batch, 0, 1)

    def _describe(self) -> dict[str, Any]:
        library, model, vocab = self.library, self.model, self.vocab
        text = ctypes.create_string_buffer(256)
        library.llama_model_desc(model, text, len(text))
        template = library.llama_model_chat_template(model, None)
        return {
            "description": text.value.decode("utf-8", "replace"),
            "parameters": library.llama_model_n_params(model),
            "nbytes_weights": library.llama_model_size(model),
            "n_vocab": library.llama_vocab_n_tokens(vocab),
            "n_ctx_train": library.llama_model_n_ctx_train(model),
            "n_embd": library.llama_model_n_embd_out(model),
            "causal": bool(self.context and library.llama_get_causal_attn(self.context)),
            "bos": library.llama_vocab_bos(vocab),
            "eos": library.llama_vocab_eos(vocab),
            "add_bos": library.llama_vocab_get_add_bos(vocab),
            "chat_template": template.decode("utf-8", "replace") if template else None,
        }

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> dict[str, Any]:
        """Token ids of `text`."""
        if self.library.llama_vocab_type(self.vocab) == VOCAB_NONE:  # llama_tokenize would abort
            raise Refused("the file has no tokenizer")
        raw = text.encode("utf-8", "surrogateescape")
        room = len(raw) + 8
        while True:
            ids = (c_int32 * room)()
            n = self.library.llama_tokenize(self.vocab, raw, len(raw), ids, room, add_special, parse_special)
            if n >= 0:
                return {"tokens": ids[:n]}
            if -n <= room:
                raise Refused(f"llama_tokenize failed with {n}")
            room = -n

    def pieces(self, tokens: list[int], special: bool) -> dict[str, Any]:
        """The text of each token, in hex: a piece may end within a character."""
        return {"pieces": [self._piece(token, special).hex() for token in tokens]}

    def _piece(self, token: int, special: bool) -> bytes:
        room = 256
        while True:
            text = ctypes.create_string_buffer(room)
            n = self.library.llama_token_to_piece(self.vocab, token, text, room, 0, special)
            if n >= 0:
                return text.raw[:n]
            room = -n

    def chat(self, turns: list[list[str]], reply: bool) -> dict[str, Any]:
        """Turns (role, text) in the model's chat template; None where llama.cpp does not know it."""
        template = self.library.llama_model_chat_template(self.model, None)
        if not template:
            return {"text": None}
        said = (ChatMessage * len(turns))(
            *(ChatMessage(*(part.encode("utf-8", "surrogateescape") for part in turn)) for turn in turns)
        )
        room = 4096 + sum(256 + 4 * len(text) for _, text in turns)
        text = ctypes.create_string_buffer(room)
        n = self.library.llama_chat_apply_template(template, said, len(turns), reply, text, room)
        return {"text": text.raw[:n].decode("utf-8", "surrogateescape") if 0 <= n <= room else None}

    def evaluate(self, tokens: list[int], reset: bool, first: int) -> tuple[dict[str, Any], NDArray[np.float32]]:
        """One batch; the logits of the tokens from `first` on, [len(tokens) - first, n_vocab] float32."""
        if not self.library.llama_get_causal_attn(self.context):
            raise Refused("the model is an encoder: it predicts no next token")
        seconds = self._decode(tokens, reset, first)
        n_vocab = self.library.llama_vocab_n_tokens(self.vocab)
        rows = max(0, len(tokens) - first)
        if not rows:
            return {"shape": [0, n_vocab], "seconds": seconds}, np.empty(0, np.float32)
        pointer = self.library.llama_get_logits(self.context)
        logits = np.ctypeslib.as_array(pointer, (rows, n_vocab))
        return {"shape": list(logits.shape), "seconds": seconds}, logits

    def _decode(self, tokens: list[int], reset: bool, first: int) -> float:
        if len(tokens) > self.n_batch:
            raise Refused(f"{len(tokens)} tokens do not fit into a batch of {self.n_batch}")
        if reset:
            memory = self.library.llama_get_memory(self.context)
            if memory:  # encoders have none
                self.library.llama_memory_clear(memory, True)
            self.past = 0
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = self.past + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i >= first
        start = time.perf_counter()
        status = self.library.llama_decode(self.context, batch)
        if status:
            raise Refused(f"llama_decode failed with {status} at token {self.past}")
        self.past += len(tokens)
        return time.perf_counter() - start

    def embed(self, tokens: list[int]) -> tuple[dict[str, Any], NDArray[np.float32]]:
        """The sequence's pooled embedding [1, n_embd] or scores [1, labels]; without pooling each token's embedding."""
        self._decode(tokens, True, 0)
        library = self.library
        pooling = library.llama_pooling_type(self.context)
        pooled = pooling > 0
        pointer = library.llama_get_embeddings_seq(self.context, 0) if pooled else None
        if pooled and not pointer:
            raise Refused("llama.cpp gave no embedding: the context was not opened for embeddings")
        width = library.llama_model_n_cls_out if pooling == POOLING_RANK else library.llama_model_n_embd_out
        shape = (1 if pooled else len(tokens), width(self.model))
        values = np.ctypeslib.as_array(pointer or library.llama_get_embeddings(self.context), shape)
        return {"shape": list(shape)}, values

    def measure(self, tokens: list[int], reset: bool) -> dict[str, Any]:
        """One batch, whose inputs are summed up."""
        assert self.inputs is not None
        self.inputs.begin()
        seconds = self._decode(tokens, reset, 0)  # as if all were predicted from: the last layer sees no others
        self.inputs.end()
        return {"seconds": seconds}

    def measured(self) -> tuple[dict[str, Any], NDArray[np.float64]]:
        """What was summed up since this was last asked."""
        assert self.inputs is not None
        return self.inputs.answer()

    def generate(self, tokens: list[int], limit: int) -> dict[str, Any]:
        """Greedy continuation: the likeliest token each time, to an end token or `limit`."""
        prompt_seconds = 0.0
        for start in range(0, len(tokens), self.n_batch):
            piece = tokens[start : start + self.n_batch]
            prompt_seconds += self._decode(piece, start == 0, len(piece) - 1)
        made: list[int] = []
        began = time.perf_counter()
        n_vocab = self.library.llama_vocab_n_tokens(self.vocab)
        while len(made) < limit:
            row = np.ctypeslib.as_array(self.library.llama_get_logits(self.context), (n_vocab,))
            token = int(row.argmax())
            if not np.isfinite(row[token]):  # argmax finds a NaN first
                raise Refused("the logits hold a NaN or an infinity")
            if self.library.llama_vocab_is_eog(self.vocab, token):
                break
            made.append(token)
            self._decode([token], False, 0)
            self.channel.send({"progress": len(made) / limit})
        seconds = time.perf_counter() - began
        text = b"".join(self._piece(token, False) for token in made).decode("utf-8", "replace")
        return {"tokens": made, "text": text, "prompt_seconds": prompt_seconds, "seconds": seconds}


def log(level: int, text: bytes, _: object = None) -> None:
    """llama.cpp's log lines, warnings and errors marked so that the parent can pick them out; no debugging."""
    if level != LOG_DEBUG:
        os.write(2, {3: b"[warning] ", 4: b"[error] "}.get(level, b"") + text)
