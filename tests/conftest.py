"""A book of one tiny chapter."""

from pathlib import Path

import pytest
import yaml
from tiny import SLUG, VARIANTS, chapter

from reproduce.layout import Layout, dumps, write


@pytest.fixture
def book(tmp_path: Path) -> Layout:
    """A checkout with one chapter that was never run."""
    works = [
        {"slug": SLUG, "part": "I", "title": "A Tiny Work", "authors": "Doe"},
        {"slug": "later", "part": "II", "title": "A Later Work"},
    ]
    write(tmp_path / "chapters" / "works.yml", yaml.safe_dump(works))
    write(tmp_path / "chapters" / "variants.yml", yaml.safe_dump(VARIANTS, sort_keys=False))
    write(tmp_path / "chapters" / f"{SLUG}.ipynb", dumps(chapter()))
    write(tmp_path / "_config.yml", "repository: {url: https://github.com/o/book}\n")
    for name in ("intro.md", "README.md"):
        write(tmp_path / name, "# Book\n\n<!-- generated:status -->\n<!-- /generated:status -->\n")
    return Layout(tmp_path)
