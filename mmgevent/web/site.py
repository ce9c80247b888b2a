"""The dashboard as a WSGI application: one page, a stream of changes, JSON, metrics, an order."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import resources
from typing import Any

from mmgevent.errors import MmgeventError
from mmgevent.shown_text import shown
from mmgevent.web.gate import Gate, Refused
from mmgevent.web.job_view import JobView
from mmgevent.web.metrics import CONTENT_TYPE, MissingClient, render
from mmgevent.web.observer import MAX_VIEWS, PATIENCE_S, Observer
from mmgevent.web.page_stream import ClosingPage, PageReader

#: Pages whose streams are open at one time. Each has a greenlet and one answer under way.
MAX_STREAMS = 64

#: Shortest time between two answers of one stream, seconds.
STREAM_S = 0.5

#: Time after which a stream without changes is sent an empty line, seconds: whatever carries it to a
#: browser elsewhere may close what is silent.
ALIVE_S = 5.0

#: Longest body of a request, bytes. An order names one job.
MAX_BODY_BYTES = 4096

#: Where the environment of a request has its socket.
SOCKET = "mmgevent.socket"

#: Parts of the script of the page, in order.
_SCRIPTS = ("base.js", "lists.js", "view.js", "page.js")

StartResponse = Callable[[str, list[tuple[str, str]]], object]
_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"


class Site:
    """Answers requests. `__call__` is the WSGI application."""

    def __init__(self, gate: Gate, observer: Observer, prove: Callable[[], None]):
        """`prove` is called when a request may pass: its connection has shown the token."""
        self._gate = gate
        self._prove = prove
        self._observer = observer
        self._streams = 0
        self._page, self._policy = _assemble_page()
        self._routes: dict[
            tuple[str, str], Callable[[dict[str, Any], dict[str, str]], tuple[str, str, bytes]]
        ] = {
            ("GET", "/"): self._show_page,
            ("GET", "/api/status"): self._show_status,
            ("GET", "/api/jobs"): self._show_jobs,
            ("GET", "/api/workers"): self._show_workers,
            ("GET", "/api/job"): self._show_job,
            ("GET", "/api/ended"): self._show_ended,
            ("POST", "/api/cancel"): self._cancel,
            ("GET", "/metrics"): self._show_metrics,
            ("GET", "/health"): self._show_health,
        }

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        try:
            return self._answer(environ, start_response)
        except Refused as refused:
            body = f"{refused.text}\n".encode()
            start_response(refused.status, [*self._headers(_TEXT, len(body)), ("Connection", "close")])
            return [body]

    def _answer(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        query = self._gate.check(environ, changes=method not in ("GET", "HEAD"))
        self._prove()
        if (method, path) == ("GET", "/api/events"):
            return self._stream(query, environ, start_response)
        route = self._routes.get(("GET" if method == "HEAD" else method, path))
        if route is None:
            known = {known_path for _, known_path in self._routes}
            if path in known:
                raise Refused("405 Method Not Allowed", "this path takes another method")
            raise Refused("404 Not Found", f"there is nothing here; there are {', '.join(sorted(known))}")
        status, kind, body = route(environ, query)
        start_response(status, self._headers(kind, len(body)))
        return [] if method == "HEAD" else [body]

    def _headers(self, kind: str, length: int | None) -> list[tuple[str, str]]:
        headers = [
            ("Content-Type", kind),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", self._policy),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
        ]
        return headers if length is None else [*headers, ("Content-Length", str(length))]

    # what can be asked for

    def _show_page(self, environ: dict[str, Any], query: dict[str, str]) -> tuple[str, str, bytes]:
        return "200 OK", "text/html; charset=utf-8", self._page

    def _show_status(self, environ: dict[str, Any], query: dict[str, str]) -> tuple[str, str, bytes]:
        board = self._look()
        seen = {"server": board.server, "workers": board.rows("workers"), "jobs": board.rows("jobs")}
        return _as_json("200 OK", seen)

    def _show_jobs(self, environ: dict[str, Any], query: dict[str, str]) -> tuple[str, str, bytes]:
        return _as_json("200 OK", {"jobs": self._look().rows("jobs")})

    def _show_workers(self, environ: dict[str, Any], query: dict[str, str]) -> tuple[str, str, bytes]:
        board = self._look()
        if "find" in query:
            return _as_json("200 OK", board.find_workers(query["find"]))
        return _as_json("200 OK", {"workers": board.rows("workers"), "totals": board.fact("totals")})

    def _show_ended(self, environ: dict[str, Any], query: dict[str, str]) -> tuple[str, str, bytes]:
        return _as_json("200 OK", {"ended": self._look().fact("ended")})

    def _show_job(self, environ: dict[str, Any], query: dict[str, str]) -> tuple[str, str, bytes]:
        self._look()
        view = self._want_job(query.get("id", ""))
        deadline_s = time.monotonic() + PATIENCE_S
        while not view.is_known and time.monotonic() < deadline_s:
            self._observer.wait_for_news(deadline_s - time.monotonic())
        if view.error:
            raise Refused("404 Not Found", view.error)
        if not view.is_known:
            raise Refused("503 Service Unavailable", "the server has not answered yet: try again")
        return _as_json("200 OK", view.whole())

    def _want_job(self, job: str) -> JobView:
        """Return what is known of a job that somebody looks into. Raises Refused."""
        if not job:
            raise Refused("400 Bad Request", "expected ?id=JOB, the id or the name of a job")
        view = self._observer.want_job(job)
        if view is None:
            raise Refused("503 Service Unavailable", f"{MAX_VIEWS} jobs are looked into: close some pages")
        return view

    def _show_health(self, environ: dict[str, Any], query: dict[str, str]) -> tuple[str, str, bytes]:
        try:
            self._look()
        except Refused as refused:
            return _as_json(refused.status, {"ok": False, "why": refused.text})
        return _as_json("200 OK", {"ok": True})

    def _show_metrics(self, environ: dict[str, Any], query: dict[str, str]) -> tuple[str, str, bytes]:
        self._observer.want()
        self._observer.wait_until_known()
        try:
            return "200 OK", CONTENT_TYPE, render(self._observer.board)
        except MissingClient as missing:
            raise Refused("501 Not Implemented", str(missing)) from None

    def _look(self) -> Any:
        """Return the board, once the server has answered. Raises Refused if it does not."""
        self._observer.want()
        self._observer.wait_until_known()
        board = self._observer.board
        if not board.is_connected:
            raise Refused("503 Service Unavailable", f"the server does not answer: {board.why}")
        return board

    def _cancel(self, environ: dict[str, Any], query: dict[str, str]) -> tuple[str, str, bytes]:
        job = _read_body(environ).get("job")
        if type(job) is not str or not job:
            raise Refused("400 Bad Request", 'expected {"job": "ID"}')
        try:
            name = self._observer.cancel(job)
        except MmgeventError as error:
            return _as_json("409 Conflict", {"error": shown(str(error))})
        return _as_json("200 OK", {"cancelled": job, "name": name})

    # the stream of changes

    def _stream(
        self, query: dict[str, str], environ: dict[str, Any], start_response: StartResponse
    ) -> Iterator[bytes]:
        if self._streams >= MAX_STREAMS:
            raise Refused("503 Service Unavailable", f"{MAX_STREAMS} pages are open: close some")
        job = query.get("job", "")
        if job:
            self._want_job(job)
        start_response("200 OK", self._headers("text/event-stream", None))
        return self._events(job, environ[SOCKET])

    def _events(self, job: str, sock: Any) -> Iterator[bytes]:
        """Yield what has changed, twice a second at most; end when the page closes."""
        self._streams += 1
        reader = PageReader(self._observer, job)
        closed = ClosingPage(sock)
        try:
            yield b"retry: 2000\n\n"
            while not closed.wait(0.0):
                began_s = time.monotonic()
                news = reader.read(closed.event, ALIVE_S)
                if news is None:
                    yield b":\n\n"
                else:
                    yield b"data: " + json.dumps(news, separators=(",", ":")).encode() + b"\n\n"
                closed.wait(began_s + STREAM_S - time.monotonic())
        finally:
            closed.stop()
            self._streams -= 1


def _as_json(status: str, value: Any) -> tuple[str, str, bytes]:
    return status, _JSON, (json.dumps(value) + "\n").encode()


def _read_body(environ: dict[str, Any]) -> dict[str, Any]:
    if environ.get("CONTENT_TYPE", "").partition(";")[0].strip() != _JSON:
        raise Refused("415 Unsupported Media Type", f"expected {_JSON}")
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError:
        length = -1
    if not 0 < length <= MAX_BODY_BYTES:
        raise Refused("413 Content Too Large", f"expected a body of 1 to {MAX_BODY_BYTES} bytes")
    try:
        body = json.loads(environ["wsgi.input"].read(length))
    except ValueError:
        body = None
    if type(body) is not dict:
        raise Refused("400 Bad Request", "the body is not a JSON object")
    return body


def _assemble_page() -> tuple[bytes, str]:
    """Return the page with its style and script, and the policy that lets nothing else run in it."""
    folder = resources.files("mmgevent.web") / "page"
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = "".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    page = (folder / "page.html").read_text(encoding="utf-8")
    page = page.replace("/* page.css */", style).replace("/* page.js */", script)
    policy = (
        f"default-src 'none'; script-src {_hash_of(script)}; style-src {_hash_of(style)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page.encode(), policy


def _hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
