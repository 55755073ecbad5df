"""What a run depends on, as hashes: a chapter's cells, and the part of nclib that it imports.

Both follow the parsed code, so comments, docstrings and layout make nothing stale. The form of the
syntax tree is written out here, as Python's own dump differs between versions.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

PACKAGE = "nclib"
INJECTED = "injected-parameters"
INSTALL = "nbval-skip"  # the install cell: a no-op here, and it holds the repository's URL
DECIDING_TAGS = {"parameters", "raises-exception", INSTALL}
MAGIC = re.compile(r"(?m)^(\s*)[%!].*$")


def code_of(nb: NotebookNode) -> list[NotebookNode]:
    """The chapter's own code cells: without the one that papermill injects."""
    return [c for c in nb.cells if c.cell_type == "code" and INJECTED not in _tags(c)]


def _tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def parse(source: str) -> ast.Module | None:
    """The syntax tree of a cell or file, magics left out; ``None`` where it is not Python."""
    try:
        return ast.parse(MAGIC.sub(r"\1pass", source))
    except (SyntaxError, ValueError):
        return None


def _shape(node: Any) -> Any:
    if isinstance(node, ast.AST):
        fields = []
        for name, value in ast.iter_fields(node):
            if name in ("ctx", "type_comment", "kind", "type_ignores") or value in (None, []):
                continue
            if name == "body" and isinstance(value, list):
                value = _undocumented(value)
            fields.append([name, _shape(value)])
        return [type(node).__name__, fields]
    if isinstance(node, list):
        return [_shape(v) for v in node]
    return repr(node)


def _undocumented(body: list) -> list:
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        if isinstance(body[0].value.value, str):
            return body[1:]
    return body


def same_code(a: str, b: str) -> bool:
    """Do two cells do the same, comments and layout aside?"""
    return a == b or essence(a) == essence(b)


def essence(source: str) -> str:
    """A cell's code without comments and layout, as text; the source where it is no Python."""
    tree = parse(source)
    magics = "\n".join(m.group().strip() for m in MAGIC.finditer(source))
    return source if tree is None else json.dumps([_shape(tree), magics])


def cells_hash(nb: NotebookNode, parameters: dict[str, Any]) -> str:
    """SHA-256 of what decides a run: the code cells, the tags that matter, and the parameters.

    The install cell is left out: it does nothing here, and changes with the repository's URL.
    """
    cells = [
        [essence(c.source), sorted(DECIDING_TAGS & set(_tags(c)))]
        for c in code_of(nb) if INSTALL not in _tags(c)
    ]
    return _digest(json.dumps([cells, parameters], sort_keys=True, ensure_ascii=False))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


# --- nclib ----------------------------------------------------------------------------------------


def torch_version() -> str | None:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def library_folder() -> Path | None:
    """Where nclib is imported from here; ``None`` where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def library_hash(sources: Iterable[str] | None = None, folder: Path | None = None) -> str | None:
    """SHA-256 of the modules of nclib that these cells import, and of its arrays.

    Args:
        sources: code of the cells; ``None`` for all of nclib.
        folder: the package's folder (default: as installed here).
    """
    folder = folder or library_folder()
    if folder is None:
        return None
    modules = _modules(folder)
    used = set(modules) if sources is None else _closure(modules, sources)
    digest = hashlib.sha256()
    for name in sorted(used):
        digest.update(f"{name}\0{essence(modules[name].read_text(encoding='utf-8'))}\0".encode())
    for path in sorted(folder.rglob("*.npz")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def chapter_library_hash(nb: NotebookNode) -> str | None:
    """:func:`library_hash` of a chapter's cells."""
    return library_hash([c.source for c in code_of(nb)])


def _modules(folder: Path) -> dict[str, Path]:
    """Files of the package by dotted name, the package's own ``__init__`` as ``""``."""
    found = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        if any(p.startswith("_") and p not in ("__init__",) and len(parts) > 1 for p in parts[:-1]):
            continue  # scripts beside the arrays
        found[".".join(p for p in parts if p != "__init__")] = path
    return found


def _imports(tree: ast.Module, package: list[str]) -> Iterable[str]:
    """Dotted names inside nclib that a module of ``package`` imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE:
                    yield ".".join(alias.name.split(".")[1:])
        elif isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".") if node.module else []
            if node.level:
                base = package[: len(package) - node.level + 1] + parts
            elif parts and parts[0] == PACKAGE:
                base = parts[1:]
            else:
                continue
            for alias in node.names:
                yield ".".join([*base, alias.name])


def _exports(modules: dict[str, Path]) -> dict[str, str]:
    """Name → module, for what the package's ``__init__`` offers."""
    tree = parse(modules[""].read_text(encoding="utf-8")) if "" in modules else None
    found = {}
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                base = node.module or ""
                target = f"{base}.{alias.name}".strip(".")
                found[alias.asname or alias.name] = target if target in modules else base
    return found


def _closure(modules: dict[str, Path], sources: Iterable[str]) -> set[str]:
    exports = _exports(modules)
    wanted: list[str] = []
    for source in sources:
        tree = parse(source)
        if tree is None:
            continue
        wanted += [n for n in _imports(tree, []) if n]
        wanted += [
            node.attr for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            and node.value.id == PACKAGE
        ]
    done: set[str] = set()
    while wanted:
        name = wanted.pop()
        head, *rest = name.split(".")
        if name not in modules and head in exports:
            name = ".".join([exports[head], *rest])
        while name and name not in modules:  # a function of a module
            name = name.rpartition(".")[0]
        if not name or name in done:
            continue
        done.add(name)
        wanted.append(name.rpartition(".")[0])
        path = modules[name]
        tree = parse(path.read_text(encoding="utf-8"))
        package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        wanted += [n for n in _imports(tree, package) if n] if tree else []
    return done
