"""What llama.cpp's own multimodal code makes of pixels or of a spectrogram: `python -m tests.mtmd MMPROJ INPUT OUTPUT`.

INPUT: an .npy of float32, [height, width, 3] as the model's preprocessor leaves pixels, or [mel bins, frames]. OUTPUT:
where the embeddings go, [tokens, width of the text model]. A process of its own: C++ exceptions end it.

xllamacpp's library has llama.cpp's `clip.h` in it, by the names that C++ gives its functions. The structures are those
of b11549.
"""

import ctypes
import importlib.util
import sys
from ctypes import POINTER, byref, c_bool, c_char_p, c_int, c_void_p
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np


class Params(ctypes.Structure):
    """clip_context_params."""

    _fields_ = [
        ("use_gpu", c_bool),
        ("device", c_void_p),
        ("flash_attn_type", c_int),
        ("image_min_tokens", c_int),
        ("image_max_tokens", c_int),
        ("warmup", c_bool),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("no_alloc", c_bool),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
    ]


class Result(ctypes.Structure):
    """clip_init_result: a context for pictures, for sounds, for making sounds."""

    _fields_ = [("vision", c_void_p), ("audio", c_void_p), ("made", c_void_p)]


class Vector(ctypes.Structure):
    """std::vector<float>."""

    _fields_ = [("begin", c_void_p), ("end", c_void_p), ("room", c_void_p)]


class Image(ctypes.Structure):
    """clip_image_f32."""

    _fields_ = [
        ("viewsep", c_bool),
        ("newline", c_bool),
        ("lead_pad", c_int),
        ("anyres", c_int * 4),
        ("buffer", Vector),
        ("width", c_int),
        ("height", c_int),
    ]


class Batch(ctypes.Structure):
    """clip_image_f32_batch, whose entries are a std::vector, too."""

    _fields_ = [("entries", Vector), ("is_audio", c_bool)]


INIT = "_Z9clip_initPKc19clip_context_params"
ENCODE = "_Z23clip_image_batch_encodeP8clip_ctxiPK20clip_image_f32_batchRSt6vectorIfSaIfEE"
WIDTH = "_Z18clip_n_mmproj_embdPK8clip_ctx"
TOKENS = "_Z20clip_n_output_tokensPK8clip_ctxPK14clip_image_f32"
#: Of another, structures may be others.
VERSION = "2026.10.11549"


def installed():
    """Whether the library that is asked is here."""
    try:
        return version("xllamacpp") == VERSION
    except PackageNotFoundError:
        return False


def library():
    """xllamacpp's."""
    (path,) = Path(importlib.util.find_spec("xllamacpp").origin).parent.glob("xllamacpp*.so")
    return ctypes.CDLL(str(path))


def embeddings(mmproj, values):
    """[tokens, width] float32."""
    lib = library()
    init, encode, width, tokens = (getattr(lib, name) for name in (INIT, ENCODE, WIDTH, TOKENS))
    init.restype, init.argtypes = Result, [c_char_p, Params]
    encode.restype, encode.argtypes = c_bool, [c_void_p, c_int, POINTER(Batch), POINTER(Vector)]
    width.restype, width.argtypes = c_int, [c_void_p]
    tokens.restype, tokens.argtypes = c_int, [c_void_p, POINTER(Image)]
    found = init(str(mmproj).encode(), Params(image_min_tokens=-1, image_max_tokens=-1))
    sounds = values.ndim == 2
    context = found.audio if sounds else found.vision
    if not context:
        raise SystemExit("llama.cpp could not load the projector")
    data = np.ascontiguousarray(values, np.float32)
    image = Image(width=data.shape[1], height=data.shape[0], buffer=vector(data))
    out = np.zeros((tokens(context, byref(image)), width(context)), np.float32)
    start = ctypes.addressof(image)
    batch = Batch(Vector(start, start + ctypes.sizeof(image), start + ctypes.sizeof(image)), sounds)
    if not encode(context, 1, byref(batch), byref(vector(out))):
        raise SystemExit("llama.cpp could not encode it")
    return out


def vector(array):
    """A std::vector over the numbers of an array; C++ neither grows nor frees it."""
    end = array.ctypes.data + array.nbytes
    return Vector(array.ctypes.data, end, end)


if __name__ == "__main__":
    np.save(sys.argv[3], embeddings(sys.argv[1], np.load(sys.argv[2])))
