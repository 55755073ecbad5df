"""Where the parts of the book lie, and how files are written: whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode

DEFAULT = "default"
WORK_KEYS = {
    "slug", "part", "title", "authors", "venue", "arxiv", "openreview", "assertions", "synthesis",
}


class BookError(Exception):
    """Something in the book's files is wrong; the message says what and where."""


@dataclass(frozen=True)
class Layout:
    """Paths of a checkout with the given root; ``results`` replaces ``_build/reproduce``."""

    root: Path
    results: Path | None = None

    @classmethod
    def find(cls, root: str | Path | None = None) -> Layout:
        """The checkout at ``root``, else the one this package lies in, else the current folder.

        Raises:
            BookError: no ``chapters`` folder there.
        """
        candidates = [Path(root)] if root else [Path(__file__).resolve().parents[1], Path.cwd()]
        for candidate in candidates:
            if (candidate / "chapters").is_dir():
                return cls(candidate.resolve())
        raise BookError(f"no chapters/ folder in {' or '.join(map(str, candidates))}")

    @property
    def chapters(self) -> Path:
        return self.root / "chapters"

    @property
    def build(self) -> Path:
        return self.root / "_build"

    @property
    def runs(self) -> Path:
        """Folder of the notebooks executed here."""
        return self.results or self.build / "reproduce"

    @cached_property
    def entries(self) -> list[dict]:
        """The entries of ``chapters/works.yml``, in reading order: works and syntheses."""
        path = self.chapters / "works.yml"
        works = read_yaml(path)
        if not isinstance(works, list):
            raise BookError(f"{path}: expected a list of works")
        for work in works:
            missing = {"slug", "part", "title"} - set(work)
            unknown = set(work) - WORK_KEYS
            if missing or unknown:
                raise BookError(
                    f"{path}: {work.get('slug', work)}: missing {sorted(missing)}, "
                    f"unknown {sorted(unknown)}"
                )
        return works

    @property
    def works(self) -> list[dict]:
        """The reproduced works, in reading order."""
        return [e for e in self.entries if not e.get("synthesis")]

    @property
    def syntheses(self) -> list[dict]:
        """The chapters that reproduce no work of their own, in reading order."""
        return [e for e in self.entries if e.get("synthesis")]

    @property
    def slugs(self) -> list[str]:
        """Slugs of all chapters that are written, in reading order."""
        return [e["slug"] for e in self.entries if self.chapter(e["slug"]).exists()]

    @property
    def notebooks(self) -> list[Path]:
        """Pages that are notebooks and no chapters: they make no claims."""
        return sorted((self.root / "pages").glob("*.ipynb"))

    def title(self, slug: str) -> str:
        return next((e["title"] for e in self.entries if e["slug"] == slug), slug)

    def chapter(self, slug: str) -> Path:
        return self.chapters / f"{slug}.ipynb"

    def stored(self, slug: str, variant: str) -> Path:
        """Where the stored notebook of a variant lies; the chapter itself for the default."""
        if variant == DEFAULT:
            return self.chapter(slug)
        return self.chapters / "variants" / slug / f"{variant}.ipynb"

    def seeds(self, slug: str) -> Path:
        """Values and verdicts of a chapter's claims over the seeds."""
        return self.chapters / "seeds" / f"{slug}.json"

    def faults(self, slug: str) -> Path:
        """The faults that a chapter's claims must see."""
        return self.root / "tests" / "faults" / f"{slug}.yml"

    def fault_results(self, slug: str) -> Path:
        """Which of a chapter's faults, or of those of ``nclib``, were seen."""
        return self.root / "tests" / "faults" / "results" / f"{slug}.json"

    def platforms(self, slug: str) -> Path:
        """Verdicts of a chapter with other versions of torch, threads and hash seeds."""
        return self.chapters / "platforms" / f"{slug}.json"

    def fresh(self, slug: str, variant: str) -> Path:
        """Where ``run`` puts an executed notebook."""
        return self.runs / slug / f"{variant}.ipynb"


class _Strict(yaml.SafeLoader):
    """YAML in which a key stands once: plain YAML would silently keep the last."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {name!r}", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path):
    """Content of a YAML file.

    Raises:
        BookError: missing file or broken YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Strict)
    except FileNotFoundError:
        raise BookError(f"{path} is missing") from None
    except yaml.YAMLError as error:
        raise BookError(f"{path}: {error}") from None


def read_record(path: Path, what: str, lines: str | None = None, **head) -> dict | None:
    """A record that this package wrote; ``None`` where there is none.

    Args:
        what: it is a record of, for the message.
        lines: key under which its list of entries stands.
        head: keys that must stand in it, with these values.

    Raises:
        BookError: a file that is no such record.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        good = all(found[key] == value for key, value in head.items())
        if good and (lines is None or isinstance(found[lines], list)):
            return found
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        pass
    raise BookError(f"{path} is not a record of {what}: remove it and run again")


def write_record(path: Path, lines: str, entries: list[dict], **head) -> None:
    """A record as JSON with a line an entry, so that a change shows where it is."""
    start = json.dumps(head, ensure_ascii=False)
    body = ",\n  ".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    write(path, f'{start[:-1]},\n "{lines}": [\n  {body}\n ]}}\n')


def read_notebook(path: Path) -> NotebookNode:
    """A notebook of format 4.5, whose cells have ids.

    Raises:
        BookError: missing, broken or too old.
    """
    try:
        nb = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    except FileNotFoundError:
        raise BookError(f"{path} is missing") from None
    except (nbformat.reader.NotJSONError, ValueError) as error:
        raise BookError(f"{path} is not a notebook: {str(error)[:200]}") from None
    if (nb.nbformat, nb.nbformat_minor) < (4, 5) or not all("id" in c for c in nb.cells):
        raise BookError(f"{path}: the notebook must have format 4.5 and cell ids")
    return nb


def dumps(nb: NotebookNode) -> str:
    """A notebook as text, the way every notebook of the book is written."""
    return nbformat.writes(nb).rstrip("\n") + "\n"


def write(path: Path, content: str | bytes) -> None:
    """Write a file at once: readers see the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def table(head: list[str], rows: list[list[str]], *, numbers: bool = False) -> str:
    """A Markdown table; with ``numbers`` all columns but the first are set to the right."""
    rule = ["---"] + ["---:" if numbers else "---"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *rows])
