"""A server of files that misbehaves on purpose."""

import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

#: Seconds that a stalling server does nothing.
STALL = 2.0
WEIGHTS = (".safetensors", ".gguf")


class Files:
    """What is served, and how.

    faults: of each kind, how many answers to requests for weights have it from now on. log: requests for weights and
    bytes that were sent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.faults, self.url = folder, Counter(), ""
        self.requests, self.sent, self.tag, self.rate = 0, 0, "one", None
        self.after = None  # (requests, what is done then)
        self.lock = threading.Lock()

    def fault(self) -> str:
        with self.lock:
            self.requests += 1
            if self.after is not None and self.requests == self.after[0]:
                self.after[1]()
            kind = next((kind for kind, left in self.faults.items() if left > 0), "")
            if kind:
                self.faults[kind] -= 1
            return kind


@contextmanager
def serving(folder: Path):
    """The files of a folder at an address, until the end."""
    files = Files(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = folder / self.path.split("?")[0].removeprefix("/moved").strip("/")
            if not path.is_file():
                self.reply(404, b"no")
                return
            kind = files.fault() if path.suffix in WEIGHTS and "/moved" not in self.path else ""
            if kind == "redirect":
                self.reply(302, b"", {"Location": f"/moved{self.path}"})
                return
            if kind in ("429", "500", "503"):
                self.reply(int(kind), b"later", {"Retry-After": "0"})
                return
            if kind == "page":
                self.reply(200, b"<!DOCTYPE html><html>sign in</html>", {"Content-Type": "text/html"})
                return
            if kind == "stall":
                time.sleep(STALL)
            asked = self.headers.get("Range")
            if asked is None or kind == "no ranges":
                self.reply(200, path.read_bytes())
                return
            start, stop = (int(number) for number in asked.removeprefix("bytes=").split("-"))
            size = path.stat().st_size
            with path.open("rb") as file:
                file.seek(start)
                part = file.read(stop + 1 - start)
            if kind == "flip":
                part = bytes([part[0] ^ 1]) + part[1:]
            said = {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{size}"}
            self.reply(206, part, said, cut=len(part) // 2 if kind == "cut" else None)

        def reply(self, status, body, headers=None, cut=None):
            self.send_response(status)
            for name, value in {"ETag": f'"{files.tag}"', **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                with files.lock:
                    files.sent += len(body)
                if files.rate is not None:
                    time.sleep(len(body) / files.rate)
                self.wfile.write(body[:cut])
            if cut is not None:
                self.close_connection = True

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass  # clients that were killed

    server = Server(("127.0.0.1", 0), Handler)
    files.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
