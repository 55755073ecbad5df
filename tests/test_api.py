"""The API page: its examples run, and its signatures are those of the docstrings.

``python tests/test_api.py`` writes the signatures.
"""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "pages" / "api.md"
ROOMS = (
    "collapse", "nrc", "stats", "hooks", "complexity", "frames", "polar", "solve", "ufm",
    "losses", "data", "data.splits",
)
MUST_EXPLAIN = tuple(room for room in ROOMS if room != "data")


def public(room):
    module = importlib.import_module(f"nclib.{room}")
    names = getattr(module, "__all__", None) or [
        n for n, v in vars(module).items()
        if not n.startswith("_") and getattr(v, "__module__", None) == module.__name__
    ]
    found = {n: getattr(module, n) for n in names}
    return {n: v for n, v in sorted(found.items()) if inspect.isfunction(v) or inspect.isclass(v)}


def first_sentence(thing):
    text = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    text = re.sub(r":\w+:`(?:~?nclib\.)?([^`]*)`", r"`\1`", text.replace("``", "`"))
    return re.split(r"(?<=[.:])\s", text)[0].rstrip(":").replace("|", "\\|")


def short(name, thing):
    if inspect.isclass(thing) and hasattr(thing, "__dataclass_fields__"):
        return name
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return name
    out, star = [], False
    for p in signature.parameters.values():
        if p.name in ("self", "cls"):
            continue
        if p.kind is p.KEYWORD_ONLY and not star:
            out, star = [*out, "*"], True
        if p.kind is p.VAR_POSITIONAL:
            star = True
        mark = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        default = "" if p.default is p.empty else f"={p.default!r}"
        out.append(f"{mark}{p.name}{default if len(default) < 30 else '=…'}")
    return f"{name}({', '.join(out)})"


def signatures():
    lines = []
    for room in ROOMS:
        lines += [f"### nclib.{room}", "", "| Name | What |", "|---|---|"]
        for name, thing in public(room).items():
            call = re.sub(r" at 0x[0-9a-f]+", "", short(name, thing)).replace("|", "\\|")
            lines.append(f"| `{call}` | {first_sentence(thing)} |")
        lines.append("")
    return "\n".join(lines)


def page_with(block):
    text = PAGE.read_text(encoding="utf-8")
    return re.sub(
        r"(<!-- signatures -->\n).*?(<!-- /signatures -->)",
        lambda m: f"{m.group(1)}\n{block}{m.group(2)}", text, flags=re.DOTALL)


def test_signatures_are_those_of_the_code():
    assert PAGE.read_text(encoding="utf-8") == page_with(signatures()), "python tests/test_api.py"


def test_examples_of_the_page():
    failed, tried = doctest.testfile(
        str(PAGE), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried > 25 and not failed


@pytest.mark.parametrize("room", ["complexity", "data.splits"])
def test_examples_of_docstrings(room):
    module = importlib.import_module(f"nclib.{room}")
    failed, tried = doctest.testmod(module)
    assert tried and not failed


@pytest.mark.parametrize("room", MUST_EXPLAIN)
def test_docstrings_name_every_argument_and_what_is_raised(room):
    for name, thing in public(room).items():
        doc = inspect.getdoc(thing)
        assert doc, name
        if not inspect.isfunction(thing):
            continue
        for p in inspect.signature(thing).parameters.values():
            assert re.search(rf"\b{p.name}\b", doc), f"{room}.{name}: {p.name}"
        if "raise ValueError" in inspect.getsource(thing):
            assert "Raises" in doc or "``ValueError``" in doc, f"{room}.{name}"


if __name__ == "__main__":
    PAGE.write_text(page_with(signatures()), encoding="utf-8")
