#!/usr/bin/env bash
# compressed-tensors 0.20.0: weights of 4-bit floats may be asymmetric; nvfp4-pack-quantized adds the zero points when it
# compresses, stores them, and does not take them off when it decompresses. Seen: with zero points of 1 the weights that
# come back are off by one step each, more than the weights themselves; with zero points of 0 they are right.
# Right: the weights that were compressed, but for rounding. Exits with 1 once decompressing heeds zero points.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 compressed-tensors==0.20.0 transformers==5.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

torch.manual_seed(0)
compressor = BaseCompressor.get_value_from_registry("nvfp4-pack-quantized")
arguments = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
weights = torch.randn(16, 64, dtype=torch.bfloat16) * 0.5


def error(zero):
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**arguments, symmetric=False))
    state = {
        "weight": weights,
        "weight_scale": torch.full((16, 4), 0.5, dtype=torch.bfloat16),
        "weight_zero_point": torch.full((16, 4), zero, dtype=torch.float8_e4m3fn),
        "weight_global_scale": torch.ones(1),
    }
    back = compressor.decompress(compressor.compress(state, scheme), scheme)["weight"]
    return float((back.float() - weights.float()).norm() / weights.float().norm())


without, with_zeros = error(0.0), error(1.0)
print(f"relative error: {without:.3f} with zero points of 0, {with_zeros:.3f} with zero points of 1")
sys.exit(0 if without < 0.4 < 0.8 < with_zeros else 1)
PYTHON
