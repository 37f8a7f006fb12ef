"""What README.md shows can be done."""

import re
from pathlib import Path

from requant.formats import open as open_model
from tests.tiny_folder import write_tiny_folder

README = Path(__file__).parents[1] / "README.md"


def test_the_library_example_runs_as_it_stands(tmp_path, monkeypatch):
    write_tiny_folder(tmp_path / "SmolLM2-135M")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names = {}
    exec(example, names)
    assert names["receipt"].files == {"out.gguf": Path("out.gguf").stat().st_size}
    assert {tensor.encoding.label for tensor in open_model("out.gguf").tensors} >= {"Q4_K", "Q6_K", "F32"}
