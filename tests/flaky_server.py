"""An HTTP server on this machine that can do everything a bad network does."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FlakyServer:
    """Serves ``files`` (path to bytes) with ranges and ETags; the other attributes break it.

    ``cut_after``: bytes of a body after which the connection is closed, per path, as often as the
    list has entries. ``statuses``: answers given before the real one. ``redirects``: path to path.
    ``silent_about_size``: no Content-Length. ``without_ranges``, ``without_tags``: not offered.
    ``headers``: what every file is sent with beside the usual.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.cut_after: dict[str, list[int]] = {}
        self.statuses: dict[str, list[int]] = {}
        self.redirects: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        self.without_ranges = False
        self.without_tags = False
        self.silent_about_size = False
        self.requests: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                outer.respond(self)

            def do_GET(self) -> None:
                outer.respond(self)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path
        self.requests.append((path, handler.headers.get("Range")))
        plain = path.split("?")[0]
        if self.statuses.get(plain):
            return self.refuse(handler, self.statuses[plain].pop(0))
        if plain in self.redirects:
            handler.send_response(302)
            handler.send_header("Location", self.redirects[plain])
            handler.send_header("Content-Length", "0")
            return handler.end_headers()
        content = self.files.get(path, self.files.get(plain))
        if content is None:
            return self.refuse(handler, 404)
        start = self.start_of(handler, plain)
        if start > 0 and start >= len(content):
            return self.refuse(handler, 416)
        handler.send_response(206 if start else 200)
        if start:
            total = len(content)
            handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if not self.without_tags:
            handler.send_header("ETag", self.etag(plain))
        if not self.silent_about_size:
            handler.send_header("Content-Length", str(len(content) - start))
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "HEAD":
            return None
        body = content[start:]
        if self.cut_after.get(plain):
            body = body[: self.cut_after[plain].pop(0)]
            handler.close_connection = True
        handler.wfile.write(body)
        return None

    def start_of(self, handler: BaseHTTPRequestHandler, path: str) -> int:
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
        condition = handler.headers.get("If-Range")
        if wanted is None or self.without_ranges or condition not in (None, self.etag(path)):
            return 0
        return int(wanted[1])

    def etag(self, path: str) -> str:
        return f'"{self.etags.get(path, "one")}"'

    @staticmethod
    def refuse(handler: BaseHTTPRequestHandler, status: int) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
