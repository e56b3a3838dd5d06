"""The source text of some classes and functions of this program, with all that they need of it, and nothing else.

The text is read from the files and cut, line by line, so that what is written out is what runs here, comments
included. Left out are methods that nothing refers to, and what only checks options: the one network that is written out
has its options already.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The folder of the package ``nas``."""
CHECKS = {("nas.attention", "BLOCKS"), ("nas.attention.spec", "INITS"), ("nas.attention.options", "nearest")}
"""What only checks options: statements that use it are left out."""

Key = tuple[str, str]
"""A module and a name in it."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """What one module contributes."""

    module: str
    """Its name."""
    words: str
    """Its docstring."""
    texts: tuple[str, ...]
    """The texts of its definitions, in their order."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """The text of what was asked for."""

    imports: frozenset[str]
    """The import statements that it needs, a name each."""
    sections: tuple[Section, ...]
    """The definitions by module, those first that others need."""


def written(roots: Iterable[Key]) -> Written:
    """Return the text of some definitions and of all that they refer to.

    Args:
        roots: Modules of this program, and names in them.

    Raises:
        ValueError: If a name is not there, is defined by two of the modules, or something else than a check uses what
            only checks options.
    """
    wanted = _reached(list(roots))
    imports: set[str] = set()
    sections = []
    for name in _in_order(dict.fromkeys(module for module, _ in wanted.keys)):
        module = _module(name)
        names = [each for each in module.definitions if (name, each) in wanted.keys]
        for each in names:
            imports |= {module.imports[used] for used in wanted.used[name, each] if used in module.imports}
        texts = tuple(module.text(each, wanted.attributes) for each in names)
        sections.append(Section(module=name, words=module.words, texts=texts))
    owners: dict[str, str] = {}
    for module_name, each in wanted.keys:
        if owners.setdefault(each, module_name) != module_name:
            raise ValueError(f"{each} is defined in {owners[each]} and in {module_name}: one of them needs a new name")
    return Written(imports=frozenset(imports), sections=tuple(sections))


def merged(imports: Iterable[str]) -> tuple[str, ...]:
    """Return import statements as lines in the usual order: Python's own first, one line for each module."""
    plain: set[str] = set()
    names: dict[str, set[str]] = {}
    for statement in imports:
        match = re.fullmatch(r"from (\S+) import (.+)", statement)
        if match is None:
            plain.add(statement)
        else:
            names.setdefault(match[1], set()).add(match[2])
    lines = [*sorted(plain), *(f"from {module} import {', '.join(sorted(names[module]))}" for module in sorted(names))]
    own = [line for line in lines if line.split()[1].split(".")[0] in sys.stdlib_module_names]
    others = [line for line in lines if line not in own]
    return (*own, "", *others) if own and others else tuple(lines)


@dataclass
class _Reached:
    keys: dict[Key, None] = field(default_factory=dict)
    attributes: set[str] = field(default_factory=set)
    used: dict[Key, set[str]] = field(default_factory=dict)


def _reached(roots: list[Key]) -> _Reached:
    """Follow names, and methods by their names, until nothing new is found."""
    found = _Reached()
    for key in roots:
        found.keys[key] = None
    size = (-1, -1)
    while size != (len(found.keys), len(found.attributes)):
        size = (len(found.keys), len(found.attributes))
        for name, each in list(found.keys):
            module = _module(name)
            used = found.used[name, each] = set()
            for node in module.nodes(each, found.attributes):
                if isinstance(node, ast.Name):
                    used.add(node.id)
                elif isinstance(node, ast.Attribute):
                    found.attributes.add(node.attr)
            for target in used:
                if target in module.definitions:
                    found.keys[name, target] = None
                elif target in module.relatives:
                    found.keys[module.relatives[target]] = None
    return found


def _in_order(modules: Iterable[str]) -> list[str]:
    """Return modules so that each comes after those that it imports from."""
    given, done = list(modules), dict[str, None]()

    def visit(name: str) -> None:
        for target, _ in _module(name).relatives.values():
            if target not in done and (target, "") not in CHECKS and target in given:
                visit(target)
        done[name] = None

    for name in sorted(given):
        visit(name)
    return list(done)


class _Module:
    """One file of this program, taken apart."""

    def __init__(self, name: str) -> None:
        self.name = name
        stem = ROOT.joinpath(*name.split(".")[1:])
        path = stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        self.words = ast.get_docstring(tree) or ""
        self._lines = text.splitlines()
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.imports: dict[str, str] = {}
        self.relatives: dict[str, Key] = {}
        self._checks: set[str] = set()
        for number, node in enumerate(tree.body):
            self._take(node, tree.body[number + 1 : number + 2])

    def _take(self, node: ast.stmt, following: list[ast.stmt]) -> None:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            self.definitions[node.name] = [node]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name):
                self.definitions[target.id] = [node, *(each for each in following if _is_text(each))]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                renamed = f" as {alias.asname}" if alias.asname else ""
                self.imports[alias.asname or alias.name.split(".")[0]] = f"import {alias.name}{renamed}"
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            for alias in node.names:
                self._take_name(node.module or "", alias.name, alias.asname or alias.name)

    def _take_name(self, module: str, name: str, local: str) -> None:
        if (module, name) in CHECKS:
            self._checks.add(local)
        elif module.split(".")[0] == "nas":
            self.relatives[local] = (module, name)
        else:
            self.imports[local] = f"from {module} import {name}" + (f" as {local}" if local != name else "")

    def nodes(self, name: str, attributes: set[str]) -> Iterator[ast.AST]:
        """Yield all that is in a definition, except for what is left out."""
        if name not in self.definitions:
            raise ValueError(f"{self.name} does not define {name}")
        left_out = {id(node) for node in self._left_out(name, attributes)}
        todo: list[ast.AST] = list(self.definitions[name])
        while todo:
            node = todo.pop()
            if id(node) not in left_out:
                yield node
                todo.extend(ast.iter_child_nodes(node))

    def text(self, name: str, attributes: set[str]) -> str:
        """Return the text of a definition, without what is left out."""
        statements = self.definitions[name]
        first = _first_line(statements[0])
        while first > 1 and self._lines[first - 2].startswith("#"):
            first -= 1
        dropped: set[int] = set()
        for node in self._left_out(name, attributes):
            start, end = _first_line(node), node.end_lineno or node.lineno
            while isinstance(node, ast.FunctionDef) and not self._lines[start - 2].strip():
                start -= 1  # the empty line before a method goes with it
            dropped |= set(range(start, end + 1))
        if any(self._is_check(node) for node in self._left_out(name, attributes)):
            dropped |= set(self._words_on_errors(statements[0]))
        last = statements[-1].end_lineno or first
        kept = [self._lines[line - 1] for line in range(first, last + 1) if line not in dropped]
        return re.sub(r"  # (type: ignore|noqa)\S*.*", "", "\n".join(kept))

    def _left_out(self, name: str, attributes: set[str]) -> list[ast.stmt]:
        """Return the statements of a definition that are left out."""
        found: list[ast.stmt] = []
        for statement in self.definitions[name]:
            for node in ast.walk(statement):
                if isinstance(node, ast.ClassDef):
                    found += [each for each in node.body if _is_idle(each, attributes)]
                elif isinstance(node, ast.FunctionDef):
                    checks = [each for each in node.body if self._is_check(each)]
                    found += checks + (_unused(node, checks) if checks else [])
        return found

    def _is_check(self, node: ast.stmt) -> bool:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            return False
        used = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)} & self._checks
        if not used:
            return False
        if isinstance(node, ast.Expr) or (isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise)):
            return True
        raise ValueError(f"{self.name}, line {node.lineno}: {', '.join(used)} may only check")

    def _words_on_errors(self, node: ast.stmt) -> Iterator[int]:
        """Yield the lines of a docstring's section on errors, as nothing is checked any more."""
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or not _is_text(node.body[0]):
            return
        text = node.body[0]
        lines = range(text.lineno, (text.end_lineno or text.lineno) + 1)
        indent = -1
        for line in lines:
            words = self._lines[line - 1]
            depth = len(words) - len(words.lstrip())
            if words.strip() == "Raises:":
                indent = depth
                yield from (line - 1, line)
            elif 0 <= indent < depth:
                yield line
            elif indent >= 0:
                return


@cache
def _module(name: str) -> _Module:
    return _Module(name)


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_idle(node: ast.stmt, attributes: set[str]) -> bool:
    """Tell whether a statement of a class is a method that nothing refers to; torch calls ``forward``."""
    if not isinstance(node, ast.FunctionDef):
        return False
    return node.name not in attributes and node.name != "forward" and not node.name.startswith("__")


def _unused(function: ast.FunctionDef, without: list[ast.stmt]) -> list[ast.stmt]:
    """Return the assignments to names that nothing in a function reads once some statements are left out."""
    rest = [node for node in function.body if node not in without]
    names = [node for statement in rest for node in ast.walk(statement) if isinstance(node, ast.Name)]
    read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    found: list[ast.stmt] = []
    for node in rest:
        if isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) for target in node.targets):
            found += [node] if not {target.id for target in node.targets if isinstance(target, ast.Name)} & read else []
    return found
