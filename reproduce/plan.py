"""What is to be run: variants as declared, parameters checked before anything starts."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from dataclasses import dataclass, field
from typing import Any

import papermill
import yaml
from nbformat import NotebookNode

from .hashes import INJECTED as INJECTED
from .hashes import INSTALL as INSTALL
from .hashes import cells_hash as cells_hash
from .hashes import code_of as code_of
from .layout import DEFAULT, BookError, Layout, read_notebook, read_yaml, tags

VARIANT_KEYS = {"parameters", "needs", "title", "about", "nearest"}
NEED = re.compile(r"gpu|network|data:[a-z0-9-]+")
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
SCALARS = {"int": int, "float": (int, float), "str": str, "bool": bool}


@dataclass(frozen=True)
class Variant:
    """One way to run a chapter. ``declared`` is false for parameters given on the command line."""

    slug: str
    name: str = DEFAULT
    parameters: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    title: str = ""
    about: str = ""
    nearest: bool = False
    declared: bool = True

    @property
    def label(self) -> str:
        return f"{self.slug}/{self.name}"


def declared(layout: Layout) -> dict[str, dict[str, Variant]]:
    """The variants of ``chapters/variants.yml`` by slug and name; the default is not among them.

    Raises:
        BookError: an unknown slug or key, a bad name, a missing title or a bad need.
    """
    path = layout.chapters / "variants.yml"
    content = read_yaml(path) or {}
    if not isinstance(content, dict):
        raise BookError(f"{path}: expected chapters, each with its variants")
    known = [e["slug"] for e in layout.entries]
    result: dict[str, dict[str, Variant]] = {}
    for slug, variants in content.items():
        if slug not in known:
            raise BookError(f"{path}: {slug!r} is not a chapter; chapters: {', '.join(known)}")
        if not isinstance(variants, dict):
            raise BookError(f"{path}: {slug}: expected a mapping of variants")
        result[slug] = {name: _variant(path, slug, name, v) for name, v in variants.items()}
        nearest = [v.name for v in result[slug].values() if v.nearest]
        if len(nearest) > 1:
            raise BookError(f"{path}: {slug}: nearest stands at {' and '.join(nearest)}; one can")
    return result


def nearest(layout: Layout, slug: str) -> Variant | None:
    """The declared run that is nearest to the work's own setting."""
    found = declared(layout).get(slug, {}).values()
    return next((v for v in found if v.nearest), None)


def data_names() -> set[str]:
    """Data sets that nclib can load, by name."""
    from nclib import data

    return {*data.SOURCES, *getattr(data, "REGRESSION", ())}


def _variant(path, slug: str, name: str, entry: Any) -> Variant:
    where = f"{path}: {slug}/{name}"
    if not isinstance(name, str) or not NAME.fullmatch(name) or name == DEFAULT:
        raise BookError(f"{where}: a variant's name is lower-case letters, digits and hyphens")
    if not isinstance(entry, dict):
        raise BookError(f"{where}: expected a mapping with {', '.join(sorted(VARIANT_KEYS))}")
    unknown, missing = set(entry) - VARIANT_KEYS, {"parameters", "title"} - set(entry)
    if unknown or missing:
        raise BookError(f"{where}: unknown keys {sorted(unknown)}, missing {sorted(missing)}")
    if not isinstance(entry["parameters"], dict) or not entry["parameters"]:
        raise BookError(f"{where}: parameters must be a mapping that is not empty")
    needs = entry.get("needs", [])
    if not isinstance(needs, list) or not all(NEED.fullmatch(str(n)) for n in needs):
        raise BookError(f"{where}: needs is a list of gpu, network or data:NAME, got {needs!r}")
    unknown = {str(n)[5:] for n in needs if str(n).startswith("data:")}
    if unknown and (unknown := unknown - data_names()):
        raise BookError(
            f"{where}: nclib cannot load {', '.join(sorted(unknown))}; "
            f"data sets: {', '.join(sorted(data_names()))}"
        )
    if not isinstance(entry.get("nearest", False), bool):
        raise BookError(f"{where}: nearest is true or absent")
    texts = {key: entry.get(key, "") for key in ("title", "about")}
    if not all(isinstance(t, str) for t in texts.values()) or not texts["title"].strip():
        raise BookError(f"{where}: title and about are text, and the title is not empty")
    return Variant(
        slug, name, entry["parameters"], tuple(needs), nearest=entry.get("nearest", False), **texts
    )


def types_of(nb: NotebookNode) -> dict[str, str]:
    """Declared type of every parameter in the cell tagged ``parameters``.

    Raises:
        BookError: no such cell, a parameter without a type, or one that papermill cannot read.
    """
    source = next((c.source for c in nb.cells if "parameters" in tags(c)), None)
    if source is None:
        raise BookError("no cell tagged 'parameters'")
    types = {n: p["inferred_type_name"] for n, p in papermill.inspect_notebook(nb).items()}
    assigned = re.findall(r"(?m)^([A-Za-z_]\w*)\s*(?::[^=\n]+)?=", source)
    lost = [n for n in assigned if n not in types]
    if lost:
        raise BookError(f"papermill cannot read {', '.join(lost)}: keep one = a line, comment too")
    untyped = [n for n, t in types.items() if t == "None"]
    if untyped:
        raise BookError(f"parameters without a type: {', '.join(untyped)}")
    return types


def fits(value: Any, type_name: str) -> bool:
    """Is ``value`` of the type named in the parameters cell? An int is a float, a bool is no int.

    Raises:
        BookError: a type other than int, float, str, bool, list or a list of these.
    """
    if type_name in SCALARS:
        return isinstance(value, SCALARS[type_name]) and (
            isinstance(value, bool) == (type_name == "bool")
        )
    inner = re.fullmatch(r"[Ll]ist(?:\[(\w+)\])?", type_name)
    if inner is None or inner[1] not in (None, *SCALARS):
        raise BookError(f"parameter type {type_name!r} is not supported")
    return isinstance(value, list) and all(inner[1] is None or fits(v, inner[1]) for v in value)


def check_parameters(label: str, types: dict[str, str], parameters: dict[str, Any]) -> None:
    """Refuse unknown names and values of the wrong type: papermill itself accepts both.

    Raises:
        BookError: naming the variant, the parameter and what was expected.
    """
    for name, value in parameters.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise BookError(f"{label}: parameter {name!r} must be finite, got {value!r}")
        if name not in types:
            raise BookError(
                f"{label}: unknown parameter {name!r}; the chapter has "
                + (", ".join(f"{n}: {t}" for n, t in types.items()) or "none")
            )
        if not fits(value, types[name]):
            hint = ""
            if types[name] == "float" and isinstance(value, str):
                hint = "; YAML takes 5e-4 for text, write 5.0e-4"
            raise BookError(
                f"{label}: parameter {name!r} must be {types[name]}, got {value!r} "
                f"({type(value).__name__}){hint}"
            )


def parse_values(text: str, type_name: str) -> list[Any]:
    """Values given on the command line: ``7``, ``0,1,2``, ``0..9``; for a list ``[1, 2]``.

    Raises:
        ValueError: not of that type.
    """
    if type_name not in SCALARS:
        return [yaml.safe_load(text)]
    values: list[Any] = []
    for part in text.split(","):
        span = RANGE.fullmatch(part.strip()) if type_name == "int" else None
        if span:
            first, last = int(span[1]), int(span[2])
            if last < first:
                raise ValueError(f"{part!r} is an empty range")
            values.extend(range(first, last + 1))
        elif type_name == "bool":
            values.append({"true": True, "false": False}[part.strip().lower()])
        else:
            values.append({"int": int, "float": float, "str": str}[type_name](part.strip()))
    return values


def _sweep(variant: Variant, types: dict[str, str], given: list[str]) -> list[Variant]:
    """Unstored variants for every combination of the values given as ``name=value``."""
    axes: dict[str, list[Any]] = {}
    for item in given:
        name, sign, text = item.partition("=")
        if not sign:
            raise BookError(f"-p {item}: expected name=value")
        if name not in types:
            check_parameters(variant.slug, types, {name: None})
        try:
            values = parse_values(text, types[name])
        except (ValueError, KeyError, yaml.YAMLError):
            raise BookError(f"-p {item}: {name!r} must be {types[name]}") from None
        known = axes.setdefault(name, [])
        known += [v for i, v in enumerate(values) if v not in known and v not in values[:i]]
    result = []
    for values in itertools.product(*axes.values()):
        extra = dict(zip(axes, values, strict=True))
        label = ",".join(f"{n}={v}" for n, v in extra.items())
        label = label if variant.name == DEFAULT else f"{variant.name}+{label}"
        parameters = {**variant.parameters, **extra}
        result.append(Variant(variant.slug, _file_name(label), parameters, variant.needs, label,
                              declared=False))
    return result


def _file_name(label: str) -> str:
    """A label as a file name; what a file name cannot hold is told apart by a short hash."""
    name = re.sub(r"[^\w.,=+-]+", "_", label)
    if name == label and len(name.encode()) <= 120:
        return name
    digest = hashlib.sha256(label.encode("utf-8")).hexdigest()[:8]
    return f"{name.encode()[:110].decode(errors='ignore')}-{digest}"


def select(
    layout: Layout, targets: list[str], given: list[str] | None = None, *, defaults: bool = False
) -> list[Variant]:
    """The variants meant by ``SLUG`` or ``SLUG/VARIANT`` (none: all chapters), all checked.

    Args:
        given: parameters ``name=value`` that make unstored variants of each target.
        defaults: leave declared variants out where no variant is named.

    Raises:
        BookError: an unknown chapter, variant or parameter, or a value of the wrong type.
    """
    table = declared(layout)
    chosen: list[Variant] = []
    for target in targets or layout.slugs:
        slug, _, name = target.partition("/")
        if slug not in layout.slugs:
            known = ", ".join(layout.slugs) or "none yet"
            raise BookError(f"no chapter {slug!r}; chapters: {known}")
        variants = {DEFAULT: Variant(slug, title="default")} | table.get(slug, {})
        if name and name not in variants:
            raise BookError(f"{slug} has no variant {name!r}; variants: {', '.join(variants)}")
        types = types_of(read_notebook(layout.chapter(slug)))
        if name or given or defaults:
            found = [variants[name or DEFAULT]]
        else:
            found = list(variants.values())
        if given:
            found = [s for v in found for s in _sweep(v, types, given)]
        for variant in found:
            check_parameters(variant.label, types, variant.parameters)
        chosen += [v for v in found if v not in chosen]
    return chosen
