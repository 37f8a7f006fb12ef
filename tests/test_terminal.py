"""The command on a terminal: the bar while it works, and Ctrl-C."""

import fcntl
import json
import math
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from tests.interrupts import heed_interrupts
from tests.tiny_folder import write_tokenizer

HIDDEN, MIDDLE, LAYERS = 256, 1 << 20, 5
BAR = re.compile(
    rb"converting: +\d+%\|[^|]*\| [\d.]+[kMG]/[\d.]+G \[\d\d:\d\d<\d\d:\d\d, +[\d.]+[kMG]?B/s\]"
)  # bytes done and in all, time so far and to come, rate


@pytest.fixture
def folder(tmp_path):
    """A llama of 4 G parameters, all of them zero: 16 GB that take no room on the disk, and a thread half a minute."""
    hf = tmp_path / "hf"
    hf.mkdir()
    vocabulary = write_tokenizer(hf)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": MIDDLE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
    (hf / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": (vocabulary, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        square = dict.fromkeys([f"self_attn.{x}_proj" for x in "qkvo"], (HIDDEN, HIDDEN))
        norms = dict.fromkeys(["input_layernorm", "post_attention_layernorm"], (HIDDEN,))
        wide = dict.fromkeys(["mlp.gate_proj", "mlp.up_proj"], (MIDDLE, HIDDEN))
        for name, shape in {**square, **norms, **wide, "mlp.down_proj": (HIDDEN, MIDDLE)}.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (hf / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return hf


def take_terminal():
    """In the child: standard input is its terminal, whose Ctrl-C is for it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    heed_interrupts()


class Terminal:
    """A pseudo-terminal of 100 columns with one program in front."""

    def __init__(self, *words):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "requant", *map(str, words)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(slave)
        self.shown = b""

    def read_until(self, pattern, seconds=240):
        """Read until something was shown, or the program ended."""
        limit = time.monotonic() + seconds
        while pattern is None or not pattern.search(self.shown):
            ready, _, _ = select.select([self.master], [], [], max(0, limit - time.monotonic()))
            assert ready, self.shown.decode()
            try:
                data = os.read(self.master, 65536)
            except OSError:  # Linux says so when the last process with the terminal has ended
                data = b""
            if not data:
                return
            self.shown += data

    def press(self, keys):
        os.write(self.master, keys)

    def hang_up(self):
        """What becomes of a terminal whose window is closed, or whose connection is lost."""
        os.close(self.master)
        self.master = -1

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        if self.master != -1:
            os.close(self.master)


def test_the_bar_is_drawn_and_ctrl_c_leaves_nothing(folder, tmp_path):
    terminal = Terminal("convert", folder, tmp_path / "out.gguf", "--to", "Q2_K", "--threads", "1")
    try:
        terminal.read_until(BAR)
        assert BAR.search(terminal.shown), terminal.shown.decode()
        assert (tmp_path / "out.gguf.partial").exists()
        terminal.press(b"\x03")
        terminal.read_until(None)
        assert terminal.process.wait(60) == 130, terminal.shown.decode()
    finally:
        terminal.close()
    said = terminal.shown.decode()
    assert "Traceback" not in said
    assert re.split(r"[\r\n]+", said.strip())[-1] == "interrupted; nothing was changed"
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_terminal_that_closes_leaves_nothing(folder, tmp_path):
    terminal = Terminal("convert", folder, tmp_path / "out.gguf", "--to", "Q2_K", "--threads", "1")
    try:
        terminal.read_until(BAR)
        assert (tmp_path / "out.gguf.partial").exists()
        terminal.hang_up()
        assert terminal.process.wait(60) != 0
    finally:
        terminal.close()
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
