#!/usr/bin/env bash
# llama.cpp's converter, as llama-cpp-python 0.3.36 carries it (October 2026), and transformers 5.23.0: for a
# GlmForCausalLM (GLM-4-9B) it reads `layernorm_epsilon` and `seq_length`, keys of the first ChatGLM releases, where
# transformers writes `rms_norm_eps` and `max_position_embeddings`. Without them it takes 1e-5 and the hidden size.
# Seen: an epsilon of 1e-05 instead of 1.5625e-07, 64 times as large, and a context of 64 instead of 2048 tokens.
# Right: the values of config.json. Exits with 1 once either is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 transformers==5.23.0 sentencepiece protobuf
"$folder/venv/bin/python" -m pip download --quiet --no-deps --no-binary llama-cpp-python -d "$folder" llama-cpp-python==0.3.36
tar -xzf "$folder"/llama_cpp_python-0.3.36.tar.gz -C "$folder"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from pathlib import Path

sys.path[:0] = [f"llama_cpp_python-0.3.36/vendor/llama.cpp/{part}" for part in ("gguf-py", "")]
import gguf
import torch
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
from transformers import GlmConfig, GlmForCausalLM

sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
config = GlmConfig(
    **sizes, head_dim=16, num_key_value_heads=2, vocab_size=96, max_position_embeddings=2048, pad_token_id=0
)
GlmForCausalLM(config).save_pretrained("glm")
with torch.inference_mode():
    hparams = ModelBase.load_hparams(Path("glm"), False)
    kind = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
    model = kind(Path("glm"), gguf.LlamaFileType.ALL_F32, Path("glm.gguf"), hparams=hparams)
    model.set_vocab = lambda: None  # the vocabulary does not matter here
    model.write()
fields = gguf.GGUFReader("glm.gguf").fields
epsilon = fields["chatglm.attention.layer_norm_rms_epsilon"].contents()
context = fields["chatglm.context_length"].contents()
print(f"epsilon: {epsilon:.4g} in the GGUF, {config.rms_norm_eps:.4g} in config.json")
print(f"context: {context} in the GGUF, {config.max_position_embeddings} in config.json")
sys.exit(0 if abs(epsilon - 1e-5) < 1e-8 and context == 64 else 1)
PYTHON
