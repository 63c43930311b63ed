"""A small HTTP server for tests of `corral pull`: ranges, interruptions and changed files on demand."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """Paths and their bodies; tests change them while it runs."""

    files: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    cut_after: list[int] = field(
        default_factory=list
    )  # for each coming answer: bytes sent before the connection breaks
    ranges: bool = True
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    @contextmanager
    def running(self) -> Iterator["FileServer"]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _handler(files: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            files.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            body = files.files.get(path)
            if body is None:
                self.send_error(404)
                return
            tag = files.tags.get(path, "")
            begin = self._begin(tag)
            if begin > len(body):
                self.send_error(416)
                return
            self.send_response(206 if begin else 200)
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
            if tag:
                self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(body) - begin))
            self.end_headers()
            end = begin + files.cut_after.pop(0) if files.cut_after else len(body)
            self.wfile.write(body[begin:end])
            self.close_connection = True

        def _begin(self, tag: str) -> int:
            asked = self.headers.get("Range", "")
            if not asked or not files.ranges or self.headers.get("If-Range", tag) != tag:
                return 0
            return int(asked.removeprefix("bytes=").removesuffix("-"))

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    return Handler
