"""What stands before the dashboard: it answers this machine alone, lets nobody do harm, and sends nothing away."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HOSTS = ("127.0.0.1", "localhost", "::1")
"""Names under which the page may be asked for; any other may be a page elsewhere, made to mean this machine."""
_READS = ("GET", "HEAD")
_EDITS = {
    "PUT": re.compile(r"/api/studies/\d+(/\d+)?/note"),
    "POST": re.compile(r"/api/artifacts/\d+(/\d+)?"),
    "DELETE": re.compile(r"/api/artifacts/\d+(/\d+)?/[0-9a-fA-F-]+"),
}
"""What may be changed with ``--edit``: notes and artifacts. The rest (deleting, renaming, telling) is the search's."""
_ARTIFACT_POLICY = "; ".join(
    (
        # A page among the artifacts runs as a stranger: it cannot ask the dashboard for anything, nor send anything.
        "sandbox allow-scripts allow-downloads",
        "default-src 'none'",
        "script-src 'unsafe-inline'",
        "style-src 'unsafe-inline'",
        "img-src data: blob:",
        "media-src 'self'",
        "font-src data:",
        "frame-ancestors 'none'",
    )
)
_PAGE_POLICY = "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
"""What the dashboard's own policy leaves open: a form may be sent anywhere, and a page elsewhere may frame this one."""
_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]


class Guard:
    """A WSGI application before another one."""

    def __init__(
        self, app: WSGIApplication, *, editable: bool, on_study: Callable[[int], None] = lambda number: None
    ) -> None:
        """Say what to guard.

        Args:
            app: The dashboard.
            editable: Whether notes and artifacts may be changed.
            on_study: Called with the number of the study that is asked for, before that is answered.
        """
        self._app = app
        self._editable = editable
        self._on_study = on_study

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "").rstrip("/")
        if refusal := self._refusal(environ, path):
            return _refuse(refusal, start_response)
        if asked := re.match(r"/(?:api/studies|api/artifacts|artifacts|csv)/(\d+)(?:/|$)", path):
            self._on_study(int(asked[1]))

        emptied = False

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            nonlocal emptied
            emptied = status.startswith("204")
            if emptied:
                status, headers = "200 OK", [("Content-Type", "application/json"), ("Content-Length", "2")]
            return start_response(status, _safe(headers, path), *rest)

        answer = self._app(environ, start)
        # The page of optuna-dashboard 0.21 takes an answer without content for a failure, though what it asked is done.
        return [b"{}"] if emptied else answer

    def _refusal(self, environ: WSGIEnvironment, path: str) -> str:
        """Return why a request is refused; empty if it is not."""
        host = environ.get("HTTP_HOST", "")
        if _name(f"//{host}") not in HOSTS:
            return f"the dashboard answers to {', '.join(HOSTS)} only, but was asked for as {host!r}"
        method = environ.get("REQUEST_METHOD", "")
        if method in _READS:
            return ""
        if not self._editable:
            return "the study is open read-only; run_search.py dashboard --edit lets you write notes and add artifacts"
        if method not in _EDITS or not _EDITS[method].fullmatch(path):
            return "with --edit, notes and artifacts may be changed; studies and trials are the search's alone"
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and _place(origin) != host.lower():
            return f"only the dashboard's own page may change something, but this comes from {origin!r}"
        return ""


def _name(address: str) -> str | None:
    """Return the name of the host that an address means, without the port; ``None`` where it means none."""
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _place(address: str) -> str:
    """Return host and port of an address; empty where it has none."""
    try:
        return urlsplit(address).netloc.lower()
    except ValueError:
        return ""


def _refuse(reason: str, start_response: StartResponse) -> list[bytes]:
    """Answer as the dashboard's own interface does, so that its page shows the reason."""
    body = json.dumps({"reason": reason}).encode()
    start_response("403 Forbidden", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def _safe(headers: list[tuple[str, str]], path: str) -> list[tuple[str, str]]:
    """Return the headers of an answer without the leave to be read from elsewhere, and with what holds it in."""
    kept = [(name, value) for name, value in headers if name.lower() != "access-control-allow-origin"]
    if path.startswith("/artifacts/"):
        kept = [(name, value) for name, value in kept if name.lower() != "content-security-policy"]
        return [*kept, ("Content-Security-Policy", _ARTIFACT_POLICY), *_HEADERS]
    # A second policy does not replace the first: both hold.
    return [*kept, ("Content-Security-Policy", _PAGE_POLICY), *_HEADERS]
