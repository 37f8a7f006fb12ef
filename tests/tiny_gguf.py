"""A llama small enough to be made in a test, written by PyPI gguf: random weights, a byte-fallback vocabulary."""

from pathlib import Path

import gguf
import numpy as np

EMBD, HEADS, FF, LAYERS = 32, 4, 64, 2
WORDS = ["▁", "▁the", "▁a", *"abcdefghijklmnopqrstuvwxyz", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *".,!?'-"]


def vocabulary(words: tuple[str, ...] = ()) -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and types of a SentencePiece vocabulary that can spell anything."""
    kinds, normal = gguf.TokenType, [*WORDS, *words]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *normal]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256, *[kinds.NORMAL] * len(normal)]
    return tokens, [0.0] * 259 + [-float(i) for i in range(len(normal))], [int(kind) for kind in types]


def write_tiny_llama(
    path: Path,
    *,
    seed: int = 0,
    noise: float = 0.0,
    poison: float | None = None,
    words: tuple[str, ...] = (),
    tokenizer: bool = True,
) -> Path:
    """`noise` moves every weight (a bad quantization); `poison` is put into one of them; `words` are further tokens."""
    rng, shift = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    tokens, scores, types = vocabulary(words)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(EMBD)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FF)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(EMBD // HEADS)
    writer.add_vocab_size(len(tokens))
    if tokenizer:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores(scores)
        writer.add_token_types(types)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
    else:
        writer.add_tokenizer_model("none")

    def add(name: str, *shape: int) -> None:
        values = np.ones(shape) if len(shape) == 1 else rng.normal(0, 0.3, shape)
        values = values + noise * shift.normal(0, 0.3, shape)
        if poison is not None and name == "output.weight":
            values[5, 7] = poison
        writer.add_tensor(name, values.astype(np.float32))

    add("token_embd.weight", len(tokens), EMBD)
    add("output_norm.weight", EMBD)
    add("output.weight", len(tokens), EMBD)
    for n in range(LAYERS):
        for name, shape in {
            "attn_norm": (EMBD,),
            "ffn_norm": (EMBD,),
            "attn_q": (EMBD, EMBD),
            "attn_k": (EMBD, EMBD),
            "attn_v": (EMBD, EMBD),
            "attn_output": (EMBD, EMBD),
            "ffn_gate": (FF, EMBD),
            "ffn_up": (FF, EMBD),
            "ffn_down": (EMBD, FF),
        }.items():
            add(f"blk.{n}.{name}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
