"""Serve optuna-dashboard on this machine, with what the studies show laid over it, or written into the one study."""

from __future__ import annotations

import os
import socketserver
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from nas.dashboard.desk import Desk
from nas.dashboard.guard import Guard
from nas.dashboard.shelf import FOLDER, Shelf
from nas.database import StorageError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from nas.study import Board, Study

HOST = "127.0.0.1"
"""The dashboard has no password: it is not for other machines to see."""
NICE = 10
"""How much the server stands back where a search needs the machine, and times what it trains."""


def address(study: Study, port: int) -> str:
    """Return the address of a study's page.

    Raises:
        StorageError: If the port cannot be one.
    """
    if not 0 < port < 2**16:
        raise StorageError(f"the port must be between 1 and 65535, but got {port}")
    return f"http://{HOST}:{port}/dashboard/studies/{study.number}"


def app(study: Study, studies: str | Path, *, flags: Callable[[str], str], editable: bool = False) -> WSGIApplication:
    """Return the dashboard of the database of a study.

    Read-only, notes, plots and artifacts are worked out for every study of the database that is looked at, and again
    as it goes on; nothing is stored. Editable, those of the one study are stored once, in the database and the folder
    ``_artifacts``: notes and artifacts may then be changed, and other programs show them, too.

    Args:
        study: An open study; it is sealed if nothing may be changed.
        studies: The folder of studies.
        flags: Returns how a study of some name is named on the command line.
        editable: Whether notes and artifacts may be changed.
    """
    import optuna_dashboard  # slow to import: it brings scikit-learn where that is installed

    if not editable:
        study.seal()
    board, shelf = study.board(editable=editable), Shelf(Path(studies) / FOLDER, editable=editable)
    desk = Desk(study, board, shelf, Path(studies), flags)
    if editable:
        desk.store()
    dashboard = optuna_dashboard.wsgi(board, artifact_store=shelf)
    dashboard.install(partial(_improved, dashboard, board))
    return Guard(dashboard, editable=editable, on_study=(lambda number: None) if editable else desk.refresh)


def _improved(dashboard: Any, board: Board, view: Callable[..., Any]) -> Callable[..., Any]:
    """Mend what the dashboard answers: a plugin of its framework.

    An answer's plots are sorted by their ids, a file that is gone is said to be gone, and importances do not fail while
    a search goes on.
    """
    from bottle import HTTPError, request  # the framework that optuna-dashboard is made with

    def answer(*args: Any, **kwargs: Any) -> Any:
        try:
            if not request.path.endswith("/param_importances"):
                found = view(*args, **kwargs)
            else:
                # Trials are kept for some seconds, but read anew for this, which fails where one that has ended since
                # is the first with some parameter.
                dashboard._inmemory_cache.clear()
                with board.still():
                    found = view(*args, **kwargs)
        except FileNotFoundError as error:
            return HTTPError(404, f"the file of this artifact is gone: {error.filename or error}")
        if isinstance(found, dict) and "plotly_graph_objects" in found:
            found["plotly_graph_objects"].sort(key=lambda plot: plot["id"])  # they come in any order
        return found

    return answer


class Server(socketserver.ThreadingMixIn, WSGIServer):
    """Answers every request in a thread of its own: one that takes long does not hold up the page."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without asking a name server for this machine's name, which may take long and is not needed."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a page that was closed before it had its answer."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Quiet(WSGIRequestHandler):
    """Says nothing of each request: an open page asks every few seconds."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def listen(port: int) -> Server:
    """Return a server that listens on this machine's own address, without an application yet.

    Raises:
        StorageError: If the port is taken.
    """
    try:
        return Server((HOST, port), _Quiet)
    except OSError as error:
        raise StorageError(f"cannot listen on {HOST}:{port}: {error.strerror}; give another with --port") from error


def serve(
    study: Study,
    studies: str | Path,
    port: int,
    *,
    flags: Callable[[str], str],
    editable: bool = False,
    on_start: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve the dashboard until the process is ended (Ctrl-C).

    Args:
        study: The study whose page is opened.
        studies: The folder of studies.
        port: TCP port.
        flags: As :func:`app` takes it.
        editable: As well.
        on_start: Called with the address of the study's page, once that answers.

    Raises:
        StorageError: If the port cannot be one, or is taken.
    """
    page = address(study, port)
    with listen(port) as server:
        server.set_app(app(study, studies, flags=flags, editable=editable))
        # Optuna's importances warn of what few trials have, on each request; the study's note says it.
        warnings.filterwarnings("ignore", "Some regimes for parameter", UserWarning)
        if hasattr(os, "nice"):
            os.nice(NICE)
        on_start(page)
        server.serve_forever()
