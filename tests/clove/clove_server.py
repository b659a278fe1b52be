"""A small HTTP server that simulates errors."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """The content and the behavior of a server.

    Attributes:
        files: content by path.
        ranges: whether to support Range requests (with If-Range, as HTTP requires).
        drops: number of bytes that each of the next responses sends before the connection is closed.
        statuses: status codes of the next responses, which are errors.
        tag: the ETag of every file, None for none.
        asked: ``(path, Range header)`` of every request so far.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    drops: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    tag: str | None = '"1"'
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def log_message(self, *_: object) -> None:
        """Write no log."""

    def do_GET(self) -> None:
        site = self.site
        wanted = self.headers.get("Range")
        site.asked.append((self.path, wanted))
        if site.statuses:
            self._answer(site.statuses.pop(0), b"")
            return
        content = site.files.get(self.path)
        if content is None:
            self._answer(404, b"")
            return
        if wanted is None or not site.ranges or self.headers.get("If-Range") != site.tag:
            self._answer(200, content)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        else:
            said = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            self._answer(206, content[start:], said)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.site.tag:
            self.send_header("ETag", self.site.tag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body and self.site.drops:
            self.wfile.write(body[: self.site.drops.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(body)


def serve(site: Site) -> ThreadingHTTPServer:
    """Start a server for ``site`` on a free local port and set its ``url``; the caller shuts it down."""
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server
