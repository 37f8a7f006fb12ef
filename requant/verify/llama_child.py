"""The process that llama.cpp lives in: requests on stdin, answers on stdout, llama.cpp's log on stderr.

Started as a module by `requant.verify.llama_cpp`; frames are those of `requant.verify.llama_channel`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from requant.verify import llama_capi, llama_server
from requant.verify.llama_channel import Channel, Refused


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
    api: Any = llama_capi.CApi(path, channel) if version in llama_capi.TESTED else llama_server.ServerApi(channel)
    channel.send({"ok": {}})
    with contextlib.suppress(BrokenPipeError):
        serve(channel, api)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
