"""What optuna-dashboard shows of the studies: notes, plots and artifacts; read-only unless it is asked otherwise."""

from nas.dashboard.server import HOST, address, app, serve

__all__ = ["HOST", "address", "app", "serve"]
