"""Texts in which tokenizers disagree, and what it takes to ask `tokenizers` and llama.cpp about them."""

from pathlib import Path

from tokenizers import Tokenizer

from requant.ir import Checkpoint, Naming, Typed
from requant.sources import Memory, read
from tests.gguf_files import save

#: Scripts, digits, white space, emoji, punctuation, code: all in composed form, which NFC leaves alone.
TEXTS = (
    "Hello, world! How's it going? I'm fine, you're late; they'll've gone. IT'S HE'LL",
    "a b  c   d    e\tf\t\tg\n\nh\n \n  i \n\n\n\nj\r\nk   ",
    " leading and trailing ",
    "1 12 123 1234 12345 1234567890 3.14 1,000,000 2024-11-21 0x1F 1e-5 v2.0 10% $5 №7",
    "def f(x: int) -> str:\n    return f'{x:>3}'  # comment\n\nclass A(B):\n\tpass\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] * 0.5f; } // ok? a&&b || !c\n#include <stdio.h>",
    "https://example.com/path?q=1&r=%20#top user@example.com /usr/bin/env C:\\temp",
    "Grüße aus Köln, façade, naïve, İstanbul, Ærøskøbing, żółć, ß ẞ",
    "Привет, мир! Ещё 3 слова. Български език",
    "Γειά σου Κόσμε, ΑΒΓ αβγ",
    "你好，世界！今天是2024年，天气不错。《书》、「引」",
    "こんにちは世界。カタカナとひらがな、漢字１２３",
    "안녕하세요 세계! 한국어 123",
    "مرحبا بالعالم ١٢٣ السلام عليكم",
    "שלום עולם",
    "नमस्ते दुनिया १२३ हिन्दी",
    "สวัสดีชาวโลก ภาษาไทย",
    "Xin chào thế giới",
    "🚀 🦙🦙 😶‍🌫️ 👩‍👩‍👧 🇩🇪 ✅ ☁ a🚀b ½ ² Ⅷ ¼",
    "''''''```````\"\"\"\"......!!!!!!?????? ------======= *** ___ ~~~ <|> |||",
    "snake_case camelCase PascalCase HTTPServer SCREAMING_CASE kebab-case x2y z3",
    "\u00a0nbsp\u3000ideographic\u2003em\u200bzero",
    '<html><body class="a">&amp;</body></html> $$x^2_1 + \\alpha$$ {a: [1, 2]}',
    "x",
    " ",
    "\n",
)


def metadata_of(path: Path) -> dict[str, Typed]:
    """The `tokenizer.*` metadata of a GGUF."""
    from requant.formats.gguf import Gguf

    return {key: value for key, value in Gguf().read(path).metadata.items() if key.startswith("tokenizer.")}


def plain(metadata: dict[str, Typed]) -> dict[str, tuple[str, object]]:
    """Metadata as values that compare."""
    return {
        key: (typed.kind, typed.value if isinstance(typed.value, str | bool | int | float) else list(typed.value))
        for key, typed in metadata.items()
    }


def folder(files: dict[str, bytes | str], config: dict | None = None, architecture: str = "llama") -> Checkpoint:
    """An HF folder in memory that has nothing but these files."""
    sources = {name: Memory(data.encode() if isinstance(data, str) else data) for name, data in files.items()}
    return Checkpoint(Naming.HF, architecture, (), config=config or {}, files=sources, path=Path("folder"))


def folder_of(
    path: Path, names: tuple[str, ...], config: dict | None = None, architecture: str = "llama"
) -> Checkpoint:
    """The same of files on a disk."""
    return folder({name: (path / name).read_bytes() for name in names}, config, architecture)


def exported(tokenizer) -> Checkpoint:
    """What `to_hf` wrote, as a folder."""
    return Checkpoint(Naming.HF, "llama", (), config=tokenizer.config, files=tokenizer.files, path=Path("folder"))


def loaded(checkpoint: Checkpoint) -> Tokenizer:
    """`tokenizers`' reading of a folder's tokenizer.json."""
    return Tokenizer.from_str(read(checkpoint.files["tokenizer.json"]).tobytes().decode())


def vocabulary_gguf(metadata: dict[str, Typed], path: Path, architecture: str = "llama") -> Path:
    """A GGUF with a tokenizer and no tensors."""
    whole = {"general.architecture": Typed("str", architecture), **metadata}
    return save(Checkpoint(Naming.GGML, architecture, (), metadata=whole), path)[0]
