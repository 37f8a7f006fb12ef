#!/usr/bin/env bash
# mlx-lm 0.32.2 (MLX 0.32.4): rope parameters of yarn have a key `truncate`, which is false in gpt-oss: the borders between
# scaled and unscaled dimensions are not cut to whole ones there. transformers heeds it; mlx-lm cuts them always, so that
# positions turn otherwise. Seen: initialize_rope gives the same frequencies with truncate true and false.
# Right: those that transformers 5.23 computes, which differ. Exits with 1 once mlx-lm heeds it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet 'mlx[cpu]==0.32.4' mlx-lm==0.32.2 torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import mlx.core as mx
import numpy as np
import torch
from mlx_lm.models.rope_utils import initialize_rope
from transformers import GptOssConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

yarn = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "original_max_position_embeddings": 4096}


def theirs(truncate):
    x = mx.ones((1, 1, 8, 64))
    rope = initialize_rope(64, 150000.0, False, {**yarn, "truncate": truncate}, 131072)
    return np.array(rope(x))


def right(truncate):
    config = GptOssConfig(head_dim=64, rope_parameters={**yarn, "rope_theta": 150000.0, "truncate": truncate})
    return ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))[0].numpy()


same, differ = np.array_equal(theirs(True), theirs(False)), not np.array_equal(right(True), right(False))
print(f"mlx-lm: truncate makes {'no' if same else 'a'} difference; transformers: {'a' if differ else 'no'} difference")
sys.exit(0 if same and differ else 1)
PYTHON
