"""What the process of llama.cpp and its parent send each other, and how the process says no.

A frame is a little-endian u32, that many bytes of JSON, then `nbytes` (a key of the JSON) raw bytes. Every request gets
one answer, `{"ok": …}` or `{"error": "…"}`; `{"progress": 0…1}` may come before it.
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

from numpy.typing import NDArray


class Refused(Exception):
    """llama.cpp said no; the parent adds the log's last words."""


class Channel:
    """The pipe to the parent."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self.source, self.sink = source, sink

    def receive(self) -> dict[str, Any] | None:
        """The next request; None when the parent has gone."""
        head = self.source.read(4)
        if len(head) < 4:
            return None
        message = json.loads(self.source.read(struct.unpack("<I", head)[0]))
        return dict(message)

    def send(self, message: dict[str, Any], payload: NDArray[Any] | None = None) -> None:
        """One frame; `payload` goes out as the bytes it is, which the parent knows the dtype of."""
        if payload is not None:
            message = {**message, "nbytes": payload.nbytes}
        text = json.dumps(message).encode()
        self.sink.write(struct.pack("<I", len(text)) + text)
        if payload is not None:
            self.sink.write(payload.tobytes())
        self.sink.flush()
