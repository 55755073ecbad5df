"""Promotes executed notebooks to stored ones, and checks what is stored."""

from __future__ import annotations

import base64
import copy
import re
import zipfile
from dataclasses import replace
from pathlib import Path

from nbformat import NotebookNode

from . import form, gate, hashes, records
from .hashes import same_code
from .layout import DEFAULT, BookError, Layout, dumps, read_notebook, tags, write
from .plan import INJECTED, INSTALL, Variant, cells_hash, code_of, declared, select
from .run import Row, guarded, judge_file

NOTEBOOK_BYTES = 750_000  # 350,000 is the aim; figures at 200 dpi and cards do not fit yet
ANIMATION_BYTES = 150_000
ARCHIVE_MEMBERS, ARCHIVE_BYTES = 500, 20_000_000  # of results from elsewhere: count, bytes of one


# --- from an executed notebook to a stored one ----------------------------------------------------


def with_outputs(chapter: NotebookNode, fresh: NotebookNode) -> NotebookNode:
    """The chapter as it stands, with the outputs of a run of the same code.

    Raises:
        BookError: the code cells differ.
    """
    nb = clean(copy.deepcopy(chapter))
    own, new = code_of(nb), code_of(fresh)
    same = len(own) == len(new) and all(
        same_code(a.source, b.source) or INSTALL in tags(a) for a, b in zip(own, new, strict=True)
    )
    if not same:
        raise BookError("the chapter's code has changed since this run: run it again")
    for a, b in zip(own, new, strict=True):
        a.outputs, a.execution_count = copy.deepcopy(b.outputs), b.execution_count
    if records.KEY in fresh.metadata:
        nb.metadata[records.KEY] = copy.deepcopy(fresh.metadata[records.KEY])
    return form.tidy(nb)


def clean(nb: NotebookNode) -> NotebookNode:
    """Remove what execution leaves in the metadata; the same kernel for every notebook."""
    nb.metadata.pop("papermill", None)
    nb.metadata.pop("widgets", None)
    nb.metadata["kernelspec"] = {
        "display_name": "Python 3", "language": "python", "name": "python3",
    }
    nb.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    for cell in nb.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not tags(cell):
            cell.metadata.pop("tags", None)
    return nb


def variant_page(
    layout: Layout, chapter: NotebookNode, fresh: NotebookNode, variant: Variant
) -> NotebookNode:
    """The page of a variant: the chapter's text, this run's outputs, no label a second time.

    Of an animation its last frame stands there: the chapter shows how it moves. A picture that the
    chapter shows to the pixel is left out.
    """
    nb = form.without_twins(form.still(with_outputs(chapter, fresh)), chapter)
    nb.cells = [c for c in nb.cells if not set(form.GENERATED) & set(tags(c))]
    injected = next((c for c in fresh.cells if INJECTED in tags(c)), None)
    if injected is not None:
        index = next(i for i, c in enumerate(nb.cells) if "parameters" in tags(c))
        nb.cells.insert(index + 1, copy.deepcopy(injected))
    for cell in nb.cells:
        for part in ("figure", "image"):
            cell.metadata.get("mystnb", {}).get(part, {}).pop("name", None)
        if cell.cell_type == "markdown":
            cell.source = _relocate(_unlabel(cell.source))
    _head(layout, nb, variant)
    return clean(nb)


def _unlabel(text: str) -> str:
    """Drop MyST labels: ``(label)=``, ``:name:``/``:label:`` lines, ``$$ (label)``."""
    text = re.sub(r"(?m)^\([\w:.-]+\)=\n", "", text)
    text = re.sub(r"(?m)^:(?:name|label):.*\n", "", text)
    return re.sub(r"(?m)^\$\$ *\([\w:.-]+\)$", "$$", text)


def _relocate(text: str) -> str:
    """Relative links of a page in ``chapters/``, seen from ``chapters/variants/<slug>/``."""
    relative = r"(?![a-zA-Z][a-zA-Z0-9+.-]*:|[#/<])"
    text = re.sub(rf"(\]\(){relative}(?=\S)", r"\1../../", text)
    return re.sub(rf"(\{{doc\}}`(?:[^`<]*<)?){relative}(?=[^`<]*`)", r"\1../../", text)


def _head(layout: Layout, nb: NotebookNode, variant: Variant) -> None:
    """Name the variant in the title, and say below it what was changed."""
    cell = nb.cells[0]
    title, *rest = cell.source.split("\n")
    if cell.cell_type != "markdown" or not title.startswith("# "):
        raise BookError("the first cell must start with the title: '# …'")
    values = ", ".join(f"`{name} = {value!r}`" for name, value in variant.parameters.items())
    about = f" {variant.about.strip()}" if variant.about else ""
    line = (
        f"A variant of [{layout.title(variant.slug)}](../../{variant.slug}.ipynb), "
        f"run with {values}.{about}"
    )
    cell.source = "\n".join([f"{title.rstrip()} · {variant.title}", "", line, *rest])


def faults(nb: NotebookNode) -> list[str]:
    """Why an executed notebook must not be stored; empty where it may."""
    record = records.of_notebook(nb)
    found = []
    for index, cell in enumerate(nb.cells):
        if cell.cell_type != "code":
            continue
        if cell.source.strip() and cell.execution_count is None:
            found.append(f"cell {index} was not run")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell {index} failed: {output.ename}")
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"cell {index} writes to stderr: {output.text.strip()[:80]!r}")
            for kind, data in output.get("data", {}).items():
                if kind.startswith("image/"):
                    size = len(base64.b64decode(data)) if kind != "image/svg+xml" else len(data)
                    limit = ANIMATION_BYTES if form.moves(data) else form.FIGURE_BYTES
                    if size > limit:
                        found.append(f"cell {index}: figure of {size} bytes, limit {limit}")
    if record is None:
        found.append("no claims report")
    size = len(dumps(nb).encode("utf-8"))
    if size > NOTEBOOK_BYTES:
        found.append(f"notebook of {size} bytes, limit {NOTEBOOK_BYTES}")
    return found


def page(layout: Layout, variant: Variant, fresh: NotebookNode) -> NotebookNode:
    """What would be stored for this run."""
    chapter = read_notebook(layout.chapter(variant.slug))
    if variant.name == DEFAULT:
        return with_outputs(chapter, fresh)
    return variant_page(layout, chapter, fresh, variant)


def store(
    layout: Layout, targets: list[str], *, text: bool = False, accept: bool = False
) -> list[Row]:
    """Store the executed notebooks of these targets (none: all that were run here).

    Args:
        text: take the chapter's present text into what is already stored, outputs unchanged.
        accept: store also where a verdict or value differs from what is stored.

    Raises:
        BookError: a target is unknown, was not run although named, or nothing was run at all.
    """
    rows = []
    for variant in select(layout, targets):
        path = layout.stored(variant.slug, variant.name)
        source = path if text else layout.fresh(variant.slug, variant.name)
        if not source.exists():
            if variant.label in targets and not text:
                raise BookError(f"{variant.label} was not run here: {source} is missing")
            continue
        row = Row(variant.label, "stored") if text else judge_file(
            layout, variant.slug, variant.name
        )
        try:
            fresh = read_notebook(source)
            _fresh_enough(layout, variant, fresh)
            nb = page(layout, variant, fresh)
            found = faults(nb) + gate.faults(variant, nb)
        except BookError as error:
            found = [str(error)]
        if not text and not found:
            found = _other_preset(layout, variant, nb)
        if found:
            rows.append(Row(variant.label, "refused", row.seconds, False, found))
            continue
        if not row.ok and not accept:
            row.status += "; not stored: --accept stores it"
            rows.append(row)
            continue
        write(path, dumps(nb))
        status = row.status if row.status == "stored" else f"stored, {row.status}"
        rows.append(Row(variant.label, status, row.seconds, True, row.details))
    if not rows:
        raise BookError("nothing to store: `python -m reproduce run` comes first")
    return rows


def _other_preset(layout: Layout, variant: Variant, nb: NotebookNode) -> list[str]:
    """A run on a GPU does not take the place of the CPU's: each has its variant."""
    old = records.of_file(layout.stored(variant.slug, variant.name))
    new = records.of_notebook(nb)
    if old is None or old["run"]["preset"] == new["run"]["preset"]:
        return []
    return [f"stored is the {old['run']['preset']} preset, this run has {new['run']['preset']}: "
            "name the variant that declares it"]


def _fresh_enough(layout: Layout, variant: Variant, nb: NotebookNode) -> None:
    chapter = read_notebook(layout.chapter(variant.slug))
    found = nb.metadata.get(records.KEY, {}).get("hash", {})
    if found.get("cells") != cells_hash(chapter, variant.parameters):
        raise BookError("stale: code or parameters have changed since this run, run it again")


def unpack(layout: Layout, archive: Path) -> list[str]:
    """Take the notebooks of a ``results.zip`` into the folder of fresh runs; their labels.

    Raises:
        BookError: not an archive, a member that is no ``<slug>/<variant>.ipynb``, or more or larger
            members than a book has.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [m for m in zipped.infolist() if m.filename.endswith(".ipynb")]
            if len(members) > ARCHIVE_MEMBERS:
                raise BookError(f"{archive}: {len(members)} notebooks, limit {ARCHIVE_MEMBERS}")
            for member in members:
                if not re.fullmatch(r"[a-z0-9-]+/[\w.,=+-]+\.ipynb", member.filename):
                    raise BookError(f"{archive}: unexpected member {member.filename!r}")
                with zipped.open(member) as stream:  # the header's size may lie
                    data = stream.read(ARCHIVE_BYTES + 1)
                if len(data) > ARCHIVE_BYTES:
                    raise BookError(
                        f"{archive}: {member.filename} has over {ARCHIVE_BYTES:,} bytes"
                    )
                write(layout.runs / member.filename, data)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise BookError(f"{archive}: {error}") from None
    return [m.filename.removesuffix(".ipynb") for m in members]


# --- checks ---------------------------------------------------------------------------------------


def check(layout: Layout, folder: Path | None = None) -> list[Row]:
    """Fresh runs against stored records, then every stored notebook against its sources."""
    if folder is not None and not folder.is_dir():
        raise BookError(f"{folder} is not a folder")
    return _check_fresh(replace(layout, results=folder)) + check_stored(layout)


def _check_fresh(layout: Layout) -> list[Row]:
    rows = []
    for path in sorted(layout.runs.glob("*/*.ipynb")):
        slug, name = path.parent.name, path.stem
        if not layout.chapter(slug).exists():
            continue
        if name.endswith(".failed"):
            rows.append(Row(f"run {slug}/{name.removesuffix('.failed')}", "failed", ok=False))
            continue
        row = guarded(f"{slug}/{name}", _judge_fresh, layout, slug, name)
        row.label = f"run {row.label}"
        rows.append(row)
    return rows


def _judge_fresh(layout: Layout, slug: str, name: str) -> Row:
    metadata = read_notebook(layout.fresh(slug, name)).metadata.get(records.KEY, {})
    current = cells_hash(read_notebook(layout.chapter(slug)), metadata.get("parameters", {}))
    if metadata.get("hash", {}).get("cells") != current:
        status = "stale: the chapter's code has changed, run it again"
        return Row(f"{slug}/{name}", status, ok=False)
    return judge_file(layout, slug, name)


def check_stored(layout: Layout) -> list[Row]:
    """Integrity of what is stored: declared, whole, and made from the chapter as it stands."""
    table = declared(layout)
    rows = []
    folder = layout.chapters / "variants"
    for path in sorted(folder.glob("*/*.ipynb")) if folder.is_dir() else []:
        if path.stem not in table.get(path.parent.name, {}):
            rows.append(Row(f"{path.parent.name}/{path.stem}", "not in variants.yml", ok=False))
    for path in sorted(layout.chapters.glob("*.ipynb")):
        if path.stem not in layout.slugs:
            rows.append(Row(path.stem, "not in works.yml", ok=False))
    for slug in layout.slugs:
        variants = [Variant(slug), *table.get(slug, {}).values()]
        library = hashes.chapter_library_hash(read_notebook(layout.chapter(slug)))
        rows += [r for v in variants if (r := _check_one(layout, v, library))]
    return rows


def _check_one(layout: Layout, variant: Variant, library: str | None) -> Row | None:
    path = layout.stored(variant.slug, variant.name)
    if not path.exists():
        return None
    try:
        nb = read_notebook(path)
        _fresh_enough(layout, variant, nb)
        found = faults(nb) + gate.faults(variant, nb)
        if dumps(page(layout, variant, nb)) != dumps(nb):
            found.append("text or metadata not as stored: `python -m reproduce store --text`")
    except BookError as error:
        found = [str(error)]
    if found:
        return Row(variant.label, "stored, but faulty", ok=False, details=found)
    note = "" if nb.metadata[records.KEY]["hash"].get("library") == library else ", other nclib"
    return Row(variant.label, f"stored{note}")
