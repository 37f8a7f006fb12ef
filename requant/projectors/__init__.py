"""Projectors: what makes tokens of pictures and sounds, which llama.cpp keeps in a GGUF of its own (mmproj).

To add one: a value in a file here with its rules and keys, a line in `index.TABLE`, a tiny model in
tests/tiny_projectors.py with what llama.cpp's converter makes of it (fixtures/projectors/make.py).
"""

from requant.projectors.translate import described, translated

__all__ = ["described", "translated"]
