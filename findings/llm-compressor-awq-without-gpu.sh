#!/usr/bin/env bash
# llm-compressor 0.14.0.1 and torch 2.13.0: on a machine without an accelerator its AWQModifier ends with RuntimeError
# "Cannot access accelerator device when none is available": before it searches scales, it pins the inputs that it has
# kept in memory, whatever machine there is. Its GPTQModifier quantizes the same model. Exits with 1 once AWQ does, too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip=("$folder/venv/bin/python" -m pip install --quiet)
"${pip[@]}" torch==2.13.0
"${pip[@]}" llmcompressor==0.14.0.1 datasets==5.2.0 transformers==5.17.0
cd "$folder"
export CUDA_VISIBLE_DEVICES=""
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

if torch.accelerator.is_available():
    sys.exit("this machine has an accelerator")
rows = Dataset.from_dict({"input_ids": torch.randint(3, 128, (4, 64)).tolist(), "attention_mask": [[1] * 64] * 4})
sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(128)}, unk_token="w0"))
said = {"unk_token": "w0", "pad_token": "w1", "eos_token": "w2"}
PreTrainedTokenizerFast(tokenizer_object=words, **said).save_pretrained("plain")
LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=128)).save_pretrained("plain")
how = {"targets": ["Linear"], "scheme": "W4A16", "ignore": ["lm_head"]}


def quantize(*recipe):
    oneshot(model="plain", dataset=rows, recipe=list(recipe), max_seq_length=64, num_calibration_samples=4)


quantize(GPTQModifier(**how))
print("GPTQ: done")
try:
    quantize(AWQModifier(), QuantizationModifier(**how))
except RuntimeError as error:
    print("AWQ:", error)
else:
    sys.exit(1)
PYTHON
