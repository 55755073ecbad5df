"""Pages that are notebooks and no chapters: executed and stored like them, without claims."""

from __future__ import annotations

import copy
import tempfile

from nbformat import NotebookNode

from . import form
from .layout import BookError, Layout, dumps, read_notebook, write
from .run import Row
from .store import clean

TIMEOUT = 600


def executed(nb: NotebookNode) -> NotebookNode:
    """The notebook with the outputs of a run in an empty folder.

    Raises:
        BookError: a cell raised, or wrote to stderr.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    nb = copy.deepcopy(nb)
    with tempfile.TemporaryDirectory(prefix="reproduce-", ignore_cleanup_errors=True) as folder:
        client = NotebookClient(nb, timeout=TIMEOUT, kernel_name="python3",
                                resources={"metadata": {"path": folder}})
        try:
            client.execute()
        except CellExecutionError as error:
            raise BookError(f"{error.ename}: {error.evalue}") from None
    for index, cell in enumerate(nb.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                raise BookError(f"cell {index} writes to stderr: {output.text.strip()[:80]!r}")
    return form.tidy(clean(nb))


def store(layout: Layout) -> list[Row]:
    """Execute these pages and store their outputs."""
    rows = []
    for path in layout.notebooks:
        write(path, dumps(executed(read_notebook(path))))
        rows.append(Row(path.stem, "executed and stored"))
    return rows
