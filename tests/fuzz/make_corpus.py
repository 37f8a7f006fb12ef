"""Makes tests/fuzz/corpus: small files as the libraries themselves write them. `python -m tests.fuzz.make_corpus`."""

import io
import json
import random
import tempfile
from collections import OrderedDict
from pathlib import Path

import sentencepiece
import torch

from tests.tiny_folder import write_tokenizer

CORPUS = Path(__file__).parent / "corpus"
WORDS = [
    "the",
    "model",
    "reads",
    "a",
    "file",
    "and",
    "says",
    "what",
    "is",
    "in",
    "it",
    "then",
    "writes",
    "another",
    "one",
    "of",
    "the",
    "same",
    "values",
]


def main() -> None:
    """Write every file."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = OrderedDict(
        a=base, b=base.t(), c=base[1:3, ::2].to(torch.bfloat16), d=torch.tensor(3), e=base.to(torch.int8)
    )
    torch.save(state, CORPUS / "views.bin")
    torch.save(
        {"state_dict": {"w": torch.nn.Parameter(base), "v": base[0]}, "epoch": 3, "name": "x"}, CORPUS / "nested.bin"
    )
    torch.save(torch.nn.Linear(4, 2).state_dict(), CORPUS / "linear.bin")
    rng = random.Random(0)
    text = "\n".join(" ".join(rng.choices(WORDS, k=9)) for _ in range(400))
    for kind in ("bpe", "unigram"):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text.split("\n")),
            model_writer=model,
            vocab_size=300 if kind == "bpe" else 60,
            model_type=kind,
            byte_fallback=kind == "bpe",
            minloglevel=2,
            hard_vocab_limit=False,
            normalization_rule_name="identity",
        )
        (CORPUS / f"{kind}.model").write_bytes(model.getvalue())
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        document = json.loads((Path(folder) / "tokenizer.json").read_text())
        (CORPUS / "tokenizer.json").write_text(json.dumps(document, separators=(",", ":")))


if __name__ == "__main__":
    main()
