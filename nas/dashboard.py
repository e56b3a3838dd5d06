"""Show a database's studies in optuna-dashboard."""

from __future__ import annotations

import socket

from nas.store import StorageError
from nas.study import Study

HOST = "127.0.0.1"
"""The dashboard has no password: it is not for other machines to see."""


def address(study: Study, port: int) -> str:
    """Return the address of a study's page.

    Raises:
        StorageError: If the port cannot be one.
    """
    if not 0 < port < 2**16:
        raise StorageError(f"the port must be between 1 and 65535, but got {port}")
    return f"http://{HOST}:{port}/dashboard/studies/{study.number}"


def serve(study: Study, port: int) -> None:
    """Serve the dashboard until the process is ended.

    Raises:
        StorageError: If the port is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise StorageError(f"cannot listen on {HOST}:{port}: {error.strerror}; give another with --port") from error
    import optuna_dashboard  # slow to import: it brings scikit-learn where that is installed

    optuna_dashboard.run_server(study.url, host=HOST, port=port)
