"""An HTTP store on loopback: ranges, listings, and failures on request."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote


class Handler(BaseHTTPRequestHandler):
    """Serve files below `server.folder`; every `server.every`-th request fails, in three ways in turn."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        server = self.server
        path = Path(server.folder, unquote(self.path).lstrip("/"))
        with server.lock:
            server.asked.append((self.command, path.name, self.headers.get("Range")))
            way = len(server.asked) // server.every % 3 if len(server.asked) % server.every == 0 else None
            server.failed += way is not None
        if way == 0 or server.down:
            return self.send(503, b"busy", body)
        if way == 1:
            self.close_connection = True
            return None
        if path.is_dir():
            names = "".join(f'<a href="{quote(p.name)}">{p.name}</a>' for p in sorted(path.iterdir()))
            return self.send(200, names.encode(), body, {"Content-Type": "text/html"})
        if not path.is_file():
            return self.send(404, b"", body)
        data, span = path.read_bytes(), self.headers.get("Range")
        more = {"Accept-Ranges": "bytes", "ETag": f'"{path.stat().st_mtime_ns}-{len(data)}"'}
        if span is None or not server.ranges:
            return self.send(200, data, body, more, cut=way == 2)
        first, last = (int(n) for n in span.removeprefix("bytes=").split("-"))
        part = data[first : last + 1]
        more["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
        return self.send(206, part, body, more, cut=way == 2)

    def send(self, code, data, body, more=None, cut=False):
        self.send_response(code)
        for key, value in {"Content-Length": len(data), **(more or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True


@contextmanager
def serving(folder, every=10**9, ranges=True):
    """A server of a folder; yields it, with its `url`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.folder, server.every, server.ranges, server.down = folder, every, ranges, False
    server.asked, server.failed, server.lock = [], 0, threading.Lock()
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
