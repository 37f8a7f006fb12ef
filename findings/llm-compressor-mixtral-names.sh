#!/usr/bin/env bash
# llm-compressor 0.14.0.1 (with transformers 5.17.0, which its requirements allow): it makes linear layers of mixtral's
# experts and saves them as block_sparse_moe.experts.0.gate_proj, up_proj and down_proj. Mixtral's names are w1, w3 and
# w2, and transformers knows no others: the folder that was just saved loads without an error, and with new random experts.
# Right: w1, w2 and w3, as it keeps the names of qwen3_moe. Exits with 1 once no expert is missing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 llmcompressor==0.14.0.1 transformers==5.17.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from safetensors import safe_open
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

torch.manual_seed(0)
sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
config = MixtralConfig(**sizes, num_key_value_heads=2, vocab_size=96, num_local_experts=4)
MixtralForCausalLM(config).save_pretrained("plain")
model = AutoModelForCausalLM.from_pretrained("plain", dtype=torch.bfloat16)
modifier = QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", ignore=["lm_head", "re:.*gate$"])
oneshot(model=model, recipe=modifier, pipeline="datafree")
model.save_pretrained("saved", save_compressed=True)
with safe_open("saved/model.safetensors", "pt") as file:
    stored = sorted(name for name in file.keys() if "layers.0" in name and "experts.0." in name)
_, said = AutoModelForCausalLM.from_pretrained("saved", output_loading_info=True)
missing = sorted(name for name in said["missing_keys"] if "experts" in name)
print("stored:", *stored)
print("missing when loaded:", *missing)
sys.exit(0 if missing else 1)
PYTHON
