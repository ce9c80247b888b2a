"""A web server on loopback: with ranges, without, without a length, forbidden."""

import contextlib
import http.server
import re
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(sends_body=True)

    def do_HEAD(self):
        self.answer(sends_body=False)

    def answer(self, *, sends_body):
        _, kind, name = self.path.split("/", 2)
        files = self.server.files
        if kind == "forbidden":
            return self.reply(403, b"", {})
        if not name:
            links = "".join(f'<a href="{each}">{each}</a>\n' for each in sorted(files))
            links += f'<a href="/{kind}/?C=N;O=D">Name</a> <a href="?C=M">Last modified</a>\n'
            return self.reply(200, links.encode(), {}, sends_body)
        if name not in files:
            return self.reply(404, b"", {}, sends_body)
        data = files[name]
        headers = {"ETag": f'"{hash(data)}"'}
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.server.asked.append((self.path, self.headers.get("Range")))
        if kind == "ranges" and found:
            start, end = int(found[1]), min(int(found[2]), len(data) - 1)
            if start >= len(data):
                return self.reply(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            if kind == "ranges" and name.startswith("elsewhere"):  # a server that answers another range
                start = 0
                headers["Content-Range"] = f"bytes 0-{end}/{len(data)}"
            return self.reply(206, data[start : end + 1], headers)
        if kind != "chunked":
            return self.reply(200, data, headers, sends_body)
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # who has seen enough closes
            if not sends_body:
                return
            for start in range(0, len(data), 50_000):
                piece = data[start : start + 50_000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

    def reply(self, status, data, headers, sends_body=True):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if sends_body:
            with contextlib.suppress(ConnectionError):
                self.wfile.write(data)

    def handle(self):
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, *args):
        """Say nothing."""


@contextlib.contextmanager
def running_web_server():
    """Yield a server: its `files` {name: bytes}, its `url`, and what was `asked` for."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.files, server.asked = {}, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
