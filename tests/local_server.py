"""A local HTTP server that serves files, resumes and breaks off as real ones do."""

import contextlib
import hashlib
import http.server
import random
import re
import socket
import threading

CONTENT = random.Random(0).randbytes(3_000_000)
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files`; with `cut` set, each connection ends after that many bytes, as networks do."""

    files, cut, ranges, log = {}, None, True, []

    def do_GET(self):
        self.log.append((self.path, self.headers.get("Range")))
        if self.path not in self.files:
            return self.send_error(404)
        content = self.files[self.path]
        asked = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and self.ranges else 0
        if start >= len(content) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.cut])

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve(monkeypatch):
    """Run a server; yields a class whose attributes say what it serves and at which `url`."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    handler = type("Handler", (Server,), {"files": {"/file": CONTENT}, "log": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.handle_error = lambda *_: None  # clients that hang up
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        handler.url = f"http://127.0.0.1:{running.server_port}"
        yield handler
        running.shutdown()


def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
