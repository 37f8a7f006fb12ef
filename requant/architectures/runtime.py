"""What llama.cpp asks of a GGUF of each architecture, whoever made it.

Facts: `create_tensor` in llama.cpp's src/models/*.cpp, b11549.
"""

from __future__ import annotations

from typing import Final

#: Architectures whose GGUF must have an output head of its own; in the others the embedding stands in for it.
OUTPUT_NEEDED: Final = frozenset(
    [
        "apertus",
        "arwkv7",
        "baichuan",
        "bailingmoe",
        "bailingmoe2",
        "codeshell",
        "dbrx",
        "deepseek4",
        "dots1",
        "exaone-moe",
        "glm5-next",
        "gpt-oss",
        "gptneox",
        "hy_v4",
        "internlm2",
        "jais",
        "kimi-k3",
        "kimi-linear",
        "llada-moe",
        "maple",
        "mellum",
        "mimo2",
        "minimax-m2",
        "minimax-m3",
        "muse-glimmer",
        "nemotron",
        "olmo2",
        "olmoe",
        "orion",
        "phi2",
        "phimoe",
        "plamo",
        "qwen",
        "qwen2moe",
        "rwkv6",
        "rwkv6qwen2",
        "rwkv7",
        "stablelm",
        "talkie",
        "xverse",
    ]
)
