"""Reading a file of a server by ranges: what requant has, beside fsspec, obstore and the Hub's client of Xet.

    python benchmarks/ranges.py [--megabytes 256] [--pause 0.03] [--repeat 3]

A server of our own on the loopback answers each request after a pause, as one far away does; all read the same ranges,
of 4 MiB, six at a time. Megabytes and processor seconds of the reader; the server is a process of its own. Xet's client
reads a store in a folder, without a network and without pauses: what it does with the bytes alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

BLOCK, AT_ONCE = 4 << 20, 6


def serve(path: str, pause: float, port: Any) -> None:
    """Ranges of one file."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            time.sleep(pause)
            size = Path(path).stat().st_size
            asked = self.headers.get("Range")
            start, stop = map(int, asked.removeprefix("bytes=").split("-")) if asked else (0, size - 1)
            with Path(path).open("rb") as file:
                file.seek(start)
                body = file.read(stop + 1 - start) if self.command == "GET" else b""
            self.send_response(206 if asked else 200)
            self.send_header("Content-Range", f"bytes {start}-{stop}/{size}")
            self.send_header("Content-Length", str(stop + 1 - start))
            self.send_header("Last-Modified", "Sun, 29 Nov 2026 12:00:00 GMT")
            self.send_header("ETag", '"one"')
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.put(server.server_port)
    server.serve_forever()


def readers(url: str, nbytes: int) -> dict[str, Callable[[int, int], Any]]:
    """How each reads a range."""
    from requant.ranges import Http, RemoteFile

    found: dict[str, Callable[[int, int], Any]] = {
        "requant (client of huggingface_hub)": RemoteFile("f", Http(url)).read
    }
    try:
        from obstore.store import HTTPStore

        base, _, name = url.rpartition("/")
        store = HTTPStore.from_url(base, client_options={"allow_http": True})
        found["obstore"] = lambda start, stop: store.get_range(name, start=start, end=stop)
    except ImportError:
        print("obstore is not installed")
    try:
        import fsspec

        system = fsspec.filesystem("http")
        found["fsspec"] = lambda start, stop: system.cat_file(url, start=start, end=stop)
    except ImportError:
        print("fsspec or aiohttp is not installed")
    return found


def xet_reader(path: Path) -> Callable[[int, int], Any] | None:
    """The same of a copy in a store of Xet beside the file."""
    try:
        import hf_xet
    except ImportError:
        print("hf_xet is not installed")
        return None
    session, place = hf_xet.XetSession(), f"local://{path.parent / 'xet'}"
    commit = session.new_upload_commit(endpoint=place)
    stored = commit.start_upload_file(str(path))
    commit.wait_to_finish()
    file = stored.result().xet_info
    streams = session.new_download_stream_group(endpoint=place)
    return lambda start, stop: b"".join(streams.download_stream(file, start=start, end=stop))


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--pause", type=float, default=0.03, help="Seconds before each answer.")
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.bin")
        nbytes = asked.megabytes << 20
        path.write_bytes(os.urandom(nbytes))
        context = multiprocessing.get_context("spawn")
        port = context.Queue()
        server = context.Process(target=serve, args=(str(path), asked.pause, port), daemon=True)
        server.start()
        url = f"http://127.0.0.1:{port.get()}/file.bin"
        ranges = [(start, min(nbytes, start + BLOCK)) for start in range(0, nbytes, BLOCK)]
        every = readers(url, nbytes)
        if xet := xet_reader(path):
            every["hf_xet, from a folder"] = xet
        rows: dict[str, list[tuple[float, float]]] = {name: [] for name in every}
        for _ in range(asked.repeat):
            for name, read in every.items():
                began, processor = time.monotonic(), time.process_time()
                with ThreadPoolExecutor(AT_ONCE) as pool:
                    assert sum(len(data) for data in pool.map(lambda span, read=read: read(*span), ranges)) == nbytes
                rows[name].append((time.monotonic() - began, time.process_time() - processor))
        server.terminate()
        for name, times in rows.items():
            wall, processor = (median(one[n] for one in times) for n in (0, 1))
            print(f"{name:36} {asked.megabytes / wall:6.0f} MB/s  {1024 * processor / asked.megabytes:5.2f} s per GB")


if __name__ == "__main__":
    main()
