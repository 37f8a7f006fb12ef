"""Logits of an encoder-decoder in llama.cpp, in a process of its own:

python -m tests.two_stacks MODEL.gguf IN.json OUT.npy

IN.json: {"read": tokens for the encoder, "write": tokens for the decoder}. OUT.npy: the logits behind each of the
latter, [len(write), n_vocab].
"""

import json
import sys
from ctypes import c_int32, c_void_p
from pathlib import Path

import numpy as np

from requant.verify.llama_capi import FLASH_ATTN_DISABLED, GGML_TYPE_F32, Batch, CApi
from requant.verify.llama_channel import Channel
from requant.verify.llama_cpp import find_library


def filled(batch, tokens):
    """The batch with the tokens of one sequence, from its beginning on."""
    batch.n_tokens = len(tokens)
    for n, token in enumerate(tokens):
        batch.token[n], batch.pos[n], batch.n_seq_id[n], batch.logits[n] = token, n, 1, 1
        batch.seq_id[n][0] = 0
    return batch


def main(path, read, write):
    api = CApi(str(find_library()[0]), Channel(None, None))
    library = api.library
    library.llama_encode.restype, library.llama_encode.argtypes = c_int32, [c_void_p, Batch]
    model = library.llama_model_load_from_file(path.encode(), library.llama_model_default_params())
    settings = library.llama_context_default_params()
    room = max(len(read), len(write))
    settings.n_ctx = settings.n_batch = settings.n_ubatch = room  # the encoder reads a text at once
    settings.type_k = settings.type_v = GGML_TYPE_F32
    settings.flash_attn_type = FLASH_ATTN_DISABLED
    context = library.llama_init_from_model(model, settings)
    batch = library.llama_batch_init(room, 0, 1)
    assert library.llama_encode(context, filled(batch, read)) == 0
    assert library.llama_decode(context, filled(batch, write)) == 0
    words = library.llama_vocab_n_tokens(library.llama_model_get_vocab(model))
    return np.ctypeslib.as_array(library.llama_get_logits(context), (len(write), words)).copy()


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[2]).read_text())
    np.save(sys.argv[3], main(sys.argv[1], asked["read"], asked["write"]))
