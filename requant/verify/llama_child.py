"""The process that llama.cpp lives in: requests on stdin, answers on stdout, llama.cpp's log on stderr.

Started as a module by `requant.verify.llama_cpp`. A frame is a little-endian u32, that many bytes of JSON, then
`nbytes` (a key of the JSON) raw bytes. Every request gets one answer, `{"ok": …}` or `{"error": "…"}`;
`{"progress": 0…1}` may come before it.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
from typing import Any, BinaryIO

import numpy as np
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

    def send(self, message: dict[str, Any], payload: NDArray[np.float32] | None = None) -> None:
        """One frame; `payload` goes out as the float32 it is."""
        if payload is not None:
            message = {**message, "nbytes": payload.nbytes}
        text = json.dumps(message).encode()
        self.sink.write(struct.pack("<I", len(text)) + text)
        if payload is not None:
            self.sink.write(payload.tobytes())
        self.sink.flush()


def take_streams() -> Channel:
    """Keep stdin and stdout for frames; whatever llama.cpp prints goes to the log."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return Channel(source, sink)


def serve(channel: Channel, api: Any) -> None:
    """Answer until the parent goes away."""
    while (request := channel.receive()) is not None:
        operation = getattr(api, request.pop("do"))
        try:
            answer = operation(**request)
        except Refused as error:
            channel.send({"error": str(error)})
            continue
        message, payload = answer if isinstance(answer, tuple) else (answer, None)
        channel.send({"ok": message}, payload)


def main(path: str, version: str) -> None:
    """Serve with xllamacpp's shared object at `path`, of release `version`."""
    channel = take_streams()
    from requant.verify import llama_capi, llama_server

    api: Any = llama_capi.CApi(path, channel) if version in llama_capi.TESTED else llama_server.ServerApi(channel)
    channel.send({"ok": {}})
    with contextlib.suppress(BrokenPipeError):
        serve(channel, api)


if __name__ == "__main__":
    sys.modules["requant.verify.llama_child"] = sys.modules["__main__"]  # so that `Refused` is one class
    main(sys.argv[1], sys.argv[2])
