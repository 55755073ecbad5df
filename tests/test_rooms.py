"""nclib's rooms: which may import which, and how large one may be. See CONTRIBUTING."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import nclib

ROOT = Path(nclib.__file__).parent
MAY_IMPORT = {
    "frames": set(),
    "polar": {"frames"},
    "stats": set(),
    "collapse": {"stats", "frames"},
    "nrc": set(),
    "complexity": {"stats"},
    "hooks": {"collapse", "stats"},
    "solve": set(),
    "ufm": {"frames", "solve"},
    "losses": set(),
    "models": set(),
    "stacked": set(),
    "ensembles": {"models", "losses", "stacked"},
    "training": {"losses", "models", "runtime"},
    "data": set(),
    "claims": {"runtime", "cards", "_tex"},
    "cards": {"runtime", "_tex"},
    "plotting": {"runtime", "cards"},
    "_tex": set(),
    "runtime": set(),
}
LINES = 360
LONGER = {"claims": 460, "cards": 400}


def files():
    return sorted(p for p in ROOT.rglob("*.py") if "_data" not in p.parts)


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Other rooms of nclib that the file imports, at the top or in a function."""
    depth = len(path.relative_to(ROOT).parts)  # dots that lead up to nclib itself
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".") if node.module else []
            if node.level == depth:
                found |= {parts[0]} if parts else {alias.name for alias in node.names}
            elif node.level == 0 and parts[:1] == ["nclib"]:
                found |= {parts[1]} if parts[1:] else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("nclib.")}
    return found - {room(path)}


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_and_size(path):
    name = room(path)
    if name == "__init__":
        return
    if name in MAY_IMPORT:
        assert imports(path) <= MAY_IMPORT[name]
    assert len(path.read_text().splitlines()) <= LONGER.get(name, LINES)


def test_no_room_is_unknown_or_circular():
    known = set(MAY_IMPORT) | {"__init__"}
    assert {room(path) for path in files()} <= known
    left = {name: set(arrows) for name, arrows in MAY_IMPORT.items()}
    while left:
        free = {name for name, arrows in left.items() if not arrows & set(left)}
        assert free, f"a circle among {sorted(left)}"
        left = {name: arrows for name, arrows in left.items() if name not in free}
