"""What leaves the program: the config of an architecture, and a folder that proves what it holds.

:mod:`config` is the architecture as data; :mod:`standalone` writes it out as code, with :mod:`sources`; :mod:`folder`
puts both into a folder with weights and ONNX; :mod:`proof` compares all of them; :mod:`selfcheck` does so without this
program. None of this imports torch before it is used.
"""

from __future__ import annotations

from nas.export.config import SCHEMA, ConfigError, build, check_replaceable, config, is_folder, load, read, write

__all__ = ["SCHEMA", "ConfigError", "build", "check_replaceable", "config", "is_folder", "load", "read", "write"]
