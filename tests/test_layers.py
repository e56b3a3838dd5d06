"""Imports point only downward, and heavy libraries stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS: dict[str, int] = {
    "run_search": 6,
    "search_spaces": 6,
    "nas": 6,  # the package itself: it imports what it offers, lazily
    "nas.cli": 5,
    "nas.api": 5,
    "nas.bar": 5,
    "nas.flags": 5,
    "nas.verbs": 5,
    "nas.search_flags": 5,
    "nas.run": 4,
    "nas.work": 4,
    "nas.ray_crew": 4,
    "nas.ready": 4,
    "nas.devices": 4,
    "nas.settings": 4,
    "nas.workers": 3,
    "nas.command": 4,
    "nas.facts": 4,
    "nas.report": 4,
    "nas.pareto": 4,
    "nas.heatmap": 4,
    "nas.dashboard": 4,
    "nas.doctor": 4,
    "nas.export": 4,
    "nas.retime": 4,
    "nas.explain": 4,
    "nas.reopen": 4,
    "nas.train": 4,
    "nas.verify": 4,
    "nas.study": 3,
    "nas.evaluate": 2,
    "nas.replicate": 2,
    "nas.preflight": 2,
    "nas.timing": 2,
    "nas.trainer": 2,
    "nas.warm": 2,
    "nas.database": 2,
    "nas.store": 2,
    "nas.schema": 2,
    "nas.costs": 2,
    "nas.backbones": 2,
    "nas.space": 1,
    "nas.placement": 1,
    "nas.proxy": 1,
    "nas.batches": 1,
    "nas.pauses": 1,
    "nas.standing": 1,
    "nas.optimizer": 1,
    "nas.complexity": 1,
    "nas.architecture": 0,
    "nas.attention": 0,
    "nas.effects": 0,
    "nas.evaluation": 0,
    "nas.protocol": 0,
    "nas.front": 0,
    "nas.progress": 0,
    "nas.additive": 0,
    "nas.answer": 0,
    "nas.picks": 0,
    "nas.confirm": 0,
    "nas.likeness": 0,
    "nas.ranking": 0,
    "nas.rungs": 0,
    "nas.seeds": 0,
    "nas.trust": 0,
    "nas.ablation": 0,
    "nas.removal": 0,
    "nas.catalogue": 0,
    "nas.cost_table": 0,
    "nas.files": 0,
    "nas.backup": 0,
    "nas.database_errors": 0,
    "nas.packed": 0,
    "nas.secret": 0,
    "nas.strict_json": 0,
    "nas.latency": 0,
    "nas.limits": 0,
    "nas.locks": 0,
    "nas.shadow": 0,
    "nas.threads": 0,
    "nas.data": 0,
    "nas.datasets": 0,
    "nas.image_folder": 0,
}
"""The layer of every module; those of a package share its layer."""
HOMES = {
    "optuna": {"nas.study"},
    "optuna_dashboard": {"nas.dashboard"},
    "bottle": {"nas.dashboard"},
    "ray": {"nas.ray_crew"},
    "plotly": {"nas.report", "nas.heatmap"},
    "sqlalchemy": {"nas.database", "nas.schema", "nas.store", "nas.study"},
    "timm": {"nas.placement", "nas.backbones", "nas.datasets", "nas.evaluate", "nas.train"},
}
"""Who may import what. Only placement makes timm's models; others ask for a version, names or data sets, or train."""


def sources() -> list[Path]:
    return sorted([*ROOT.glob("nas/**/*.py"), *ROOT.glob("search_spaces/*.py"), ROOT / "run_search.py"])


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit(name: str) -> str:
    """Return the entry of LAYERS that a module belongs to."""
    while name not in LAYERS:
        assert "." in name, f"{name} has no layer: add it to LAYERS"
        name = name.rpartition(".")[0]
    return name


def imports(path: Path) -> Iterator[str]:
    """Yield what a file imports, wherever in the file, except for the type checker alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if is_module(whole) else node.module


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_imports_point_downward(path: Path) -> None:
    here = unit(module_name(path))
    for target in imports(path):
        if target.split(".")[0] in ("nas", "search_spaces") and target != "nas":
            assert LAYERS[unit(target)] <= LAYERS[here], f"{here} must not import {target}"


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_libraries_stay_at_home(path: Path) -> None:
    here = unit(module_name(path))
    for target in imports(path):
        homes = HOMES.get(target.split(".")[0])
        assert homes is None or here in homes, f"{here} must not import {target}"


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        (
            "import nas, nas.attention, nas.architecture, nas.space, nas.front, nas.catalogue, nas.cost_table",
            "torch timm optuna plotly sqlalchemy",
        ),
        ("import nas.cli; nas.cli.parser().format_help()", "torch timm optuna plotly sqlalchemy"),
        ("import nas.study, nas.export, nas.report, nas.heatmap, nas.run", "torch timm plotly"),
    ],
)
def test_what_is_imported_stays_small(statement: str, forbidden: str) -> None:
    check = f"import sys; {statement}; print(*[m for m in {forbidden.split()!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.split() == []
