"""requant beside PyTorch: quantization-aware training, weights of any format, and the loss of a student.

It needs `pip install "requant[torch]"`. Nothing here trains: the loop is the user's, or transformers' Trainer.

>>> import requant.torch
>>> sorted(requant.torch.__all__)
['FakeQuantized', 'StateDict', 'checkpoint', 'distillation_loss', 'fake_quantize', 'load', 'remove_fake_quantization']
"""

from __future__ import annotations

import importlib.util

from requant.errors import UnsupportedError

if importlib.util.find_spec("torch") is None:
    raise UnsupportedError("requant.torch needs torch", hint='pip install "requant[torch]"')

from requant.torch.distillation import distillation_loss
from requant.torch.fake_quantization import fake_quantize, remove_fake_quantization
from requant.torch.modules import checkpoint
from requant.torch.rounding import FakeQuantized
from requant.torch.state import StateDict, load

__all__ = [
    "FakeQuantized",
    "StateDict",
    "checkpoint",
    "distillation_loss",
    "fake_quantize",
    "load",
    "remove_fake_quantization",
]
