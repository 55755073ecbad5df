"""Rules for the stored notebooks. Each rule is a function that lists problems; none means good.

Every rule is tried on a doctored notebook as well, so a rule that cannot fail is itself a failure.
"""

from __future__ import annotations

import ast
import copy
import re
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
OTHERS = sorted((ROOT / "pages").glob("*.ipynb"))
VARIANTS = sorted((ROOT / "chapters" / "variants").glob("*/*.ipynb"))
URL = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]

MAX_OUTPUT_LINES = 60


# --- helpers ------------------------------------------------------------------------------------


def code_cells(nb):
    return [c for c in nb.cells if c.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def outputs(nb):
    """(cell, output) pairs."""
    return [(c, o) for c in code_cells(nb) for o in c.outputs]


def images(cell):
    """Every picture that a cell shows, as ``(mime type, base64 text)``."""
    return [
        (mime, "".join(data))
        for o in cell.outputs
        for mime, data in o.get("data", {}).items()
        if mime in ("image/png", "image/jpeg", "image/gif")
    ]


def record(cell):
    """The claims record in a cell's outputs, or ``None``."""
    for o in cell.outputs:
        if "nclib" in o.get("metadata", {}):
            return o.metadata["nclib"]
    return None


def records(nb):
    return [r for r in map(record, code_cells(nb)) if r is not None]


def name(cell):
    return f"cell {cell.id}"


# --- rules for chapters and variants ------------------------------------------------------------


def valid_format(nb, path):
    try:
        nbformat.validate(nb)
    except nbformat.ValidationError as error:
        return [f"not a valid notebook: {error.message}"]
    return (
        [] if (nb.nbformat, nb.nbformat_minor) >= (4, 5) else ["older than format 4.5: no cell ids"]
    )


def kernel_is_python3(nb, path):
    kernel = nb.metadata.get("kernelspec", {}).get("name")
    return [] if kernel == "python3" else [f"kernelspec is {kernel!r}, not 'python3'"]


def every_cell_ran_in_order(nb, path):
    counts = [c.execution_count for c in code_cells(nb)]
    if counts != list(range(1, len(counts) + 1)):
        return [f"execution counts are {counts}: run all cells in order in a fresh kernel"]
    return [f"{name(c)} is empty" for c in nb.cells if not c.source.strip()]


def one_typed_parameters_cell(nb, path):
    cells = [c for c in nb.cells if "parameters" in tags(c)]
    if len(cells) != 1 or cells[0].cell_type != "code":
        return [f"{len(cells)} cells tagged 'parameters'; exactly one code cell is needed"]
    cell, problems = cells[0], []
    if code_cells(nb).index(cell) != 1:
        problems.append("the parameters are not in the second code cell")
    lines = cell.source.splitlines()
    names = []
    for node in ast.parse(cell.source).body:
        if not isinstance(node, ast.AnnAssign) or node.value is None:
            problems.append(f"line {node.lineno} of the parameters is not 'name: type = value'")
            continue
        names.append(node.target.id)
        if "#" not in lines[node.end_lineno - 1]:
            problems.append(f"parameter {node.target.id} has no comment")
    problems += [f"no parameter {p!r}" for p in ("preset", "seed") if p not in names]
    return problems


def claims_reported_last(nb, path):
    slug = path.parent.name if is_variant(path) else path.stem
    holders = [c for c in code_cells(nb) if record(c) is not None]
    if len(holders) != 1:
        return [f"{len(holders)} cells report claims; exactly one must"]
    if holders[0] is not code_cells(nb)[-1]:
        return [f"the claims are reported in {name(holders[0])}, not in the last code cell"]
    found = record(holders[0])["run"].get("slug")
    return [] if found == slug else [f"the record names {found!r}, the file {slug!r}"]


def has_controls(nb, path):
    kinds = [c["kind"] for r in records(nb) for c in r["claims"]]
    return [] if "control" in kinds else ["no control among the claims"]


def dynamics_and_data_use_seeds(nb, path):
    least = 2 if "variants" in path.parts else 3  # a long variant may do with two
    return [
        f"claim {c['id']}: {c['seeds']} seed(s); a {c['kind']} claim rests on at least {least}"
        for r in records(nb)
        for c in r["claims"]
        if c["kind"] in ("dynamics", "data") and c["verdict"] != "not run" and c["seeds"] < least
    ]


def no_stderr(nb, path):
    return [f"{name(c)} wrote to stderr" for c, o in outputs(nb) if o.get("name") == "stderr"]


def no_errors(nb, path):
    return [f"{name(c)} raised {o.ename}" for c, o in outputs(nb) if o.output_type == "error"]


def no_svg(nb, path):
    return [
        f"{name(c)} shows an SVG, whose text differs at every run"
        for c, o in outputs(nb)
        if "image/svg+xml" in o.get("data", {})
        or "<svg" in re.sub(
            r'<svg class="nclib-line".*?</svg>', "", "".join(o.get("data", {}).get("text/html", ""))
        )
    ]


def no_figure_objects(nb, path):
    """``<... at 0x...>`` is noise for readers and differs between runs."""
    problems = []
    for c, o in outputs(nb):
        text = o.get("text", "") + "".join(o.get("data", {}).get("text/plain", ""))
        if o.output_type == "execute_result" and "image/png" not in o.get("data", {}):
            if re.search(r"<[\w.]+ object at |\bmatplotlib\.", text):
                problems.append(f"{name(c)} shows a Python object: end it with plt.show()")
        elif re.search(r" at 0x[0-9a-f]{6,}", text):
            problems.append(f"{name(c)} prints an address")
    return problems


def no_runner_metadata(nb, path):
    found = [f"metadata.{k}" for k in ("papermill", "widgets", "signature") if k in nb.metadata]
    found += [
        f"{name(c)} metadata.{k}"
        for c in nb.cells
        for k in ("papermill", "execution", "ExecuteTime", "collapsed", "scrolled")
        if k in c.metadata
    ]
    return [f"{f} is left over from a run" for f in found]


def short_outputs(nb, path):
    problems = []
    for c in code_cells(nb):
        if "claims.report()" in c.source:
            continue  # one line a claim
        lines = sum(
            len((o.get("text", "") + "".join(o.get("data", {}).get("text/plain", ""))).splitlines())
            for o in c.outputs
        )
        if lines > MAX_OUTPUT_LINES:
            problems.append(f"{name(c)} prints {lines} lines, more than a screen")
    return problems


def install_cell_first(nb, path):
    cell = code_cells(nb)[0]
    problems = []
    if "nbval-skip" not in tags(cell):
        problems.append("the first code cell is not tagged nbval-skip")
    if not {"remove-cell", "remove-input", "hide-input", "hide-cell"} & set(tags(cell)):
        problems.append("the first code cell is not hidden (remove-cell or hide-input)")
    if "--no-deps" not in cell.source:
        problems.append("the first code cell does not install with --no-deps")
    if f"git+{URL}" not in cell.source:
        problems.append(f"the first code cell does not install from git+{URL}")
    if cell.outputs:
        problems.append("the first code cell has outputs")
    return problems


def only_the_install_cell_is_skipped(nb, path):
    marks = re.compile(r"nbval-(skip|ignore-output)|raises-exception")
    comments = re.compile(
        r"#\s*(NBVAL_SKIP|NBVAL_IGNORE_OUTPUT|NBVAL_RAISES_EXCEPTION|PYTEST_VALIDATE)"
    )
    return [
        f"{name(c)} escapes the comparison of outputs"
        for c in code_cells(nb)[1:]
        if any(marks.fullmatch(t) for t in tags(c)) or comments.search(c.source)
    ]


def asks_for_a_gpu(nb, path):
    found = nb.metadata.get("accelerator")
    return (
        []
        if found == "GPU"
        else [f"metadata.accelerator is {found!r}: Colab would not offer a GPU"]
    )


def no_private_paths(nb, path):
    private = re.compile(r"(?<![\w.])/(?:home|root|tmp|Users|work)/[\w.-]+")
    problems = []
    for c in nb.cells:
        texts = [c.source]
        for o in c.get("outputs", []):
            texts.append(o.get("text", ""))
            texts += ["".join(v) for k, v in o.get("data", {}).items() if k.startswith("text/")]
        found = [m.group() for t in texts for m in private.finditer(t)]
        problems += [f"{name(c)} shows the path {f}" for f in found]
    return problems


# --- rules for chapters alone -------------------------------------------------------------------


def not_injected(nb, path):
    return [
        f"{name(c)} was injected by papermill" for c in nb.cells if "injected-parameters" in tags(c)
    ]


def opens_with_title_and_badge(nb, path):
    first = nb.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        return ["the first cell is not Markdown that starts with a title"]
    where = URL.removeprefix("https://github.com/")
    link = (f"https://colab.research.google.com/github/{where}/blob/main/{path.parent.name}/"
            f"{path.name}")
    head = "\n".join(c.source for c in nb.cells[:3] if c.cell_type == "markdown")
    return [] if link in head else [f"no Colab badge at the top; expected a link to {link}"]


def one_title(nb, path):
    titles = [
        line
        for c in nb.cells
        if c.cell_type == "markdown"
        for line in re.sub(r"(?ms)^(```+|~~~+).*?^\1", "", c.source).splitlines()
        if line.startswith("# ")
    ]
    return [] if len(titles) == 1 else [f"{len(titles)} titles of the first level"]


def prose_around_figures(nb, path):
    problems, previous = [], None
    for i, c in enumerate(nb.cells):
        if c.cell_type != "code" or not images(c):
            continue
        between = nb.cells[0 if previous is None else previous + 1 : i]
        if not any(b.cell_type == "markdown" for b in between):
            problems.append(f"no prose before the figure of {name(c)}")
        previous = i
    if previous is not None and not any(
        c.cell_type == "markdown" for c in nb.cells[previous + 1 :]
    ):
        problems.append("no prose after the last figure")
    return problems


BOTH = [
    valid_format,
    kernel_is_python3,
    every_cell_ran_in_order,
    one_typed_parameters_cell,
    claims_reported_last,
    has_controls,
    dynamics_and_data_use_seeds,
    no_stderr,
    no_errors,
    no_svg,
    no_figure_objects,
    no_runner_metadata,
    short_outputs,
    install_cell_first,
    only_the_install_cell_is_skipped,
    asks_for_a_gpu,
    no_private_paths,
]
CLAIMS = [one_typed_parameters_cell, claims_reported_last, has_controls,
          dynamics_and_data_use_seeds]  # of chapters and variants; other notebooks make no claims
CHAPTER_ONLY = [not_injected, opens_with_title_and_badge, one_title, prose_around_figures]


def is_variant(path):
    return path.parent.parent.name == "variants"


# --- the stored notebooks -----------------------------------------------------------------------


def read(path):
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def label(path):
    return path.relative_to(ROOT / "chapters").as_posix()


def test_there_is_a_chapter():
    assert CHAPTERS, "chapters/ holds no notebook"


@pytest.mark.parametrize("rule", BOTH + CHAPTER_ONLY, ids=lambda r: r.__name__)
@pytest.mark.parametrize("path", CHAPTERS, ids=label)
def test_chapter(path, rule):
    assert rule(read(path), path) == []


@pytest.mark.parametrize("rule", [r for r in BOTH + CHAPTER_ONLY if r not in CLAIMS],
                         ids=lambda r: r.__name__)
@pytest.mark.parametrize("path", OTHERS, ids=lambda p: p.stem)
def test_other_notebook(path, rule):
    assert rule(read(path), path) == []
    assert records(read(path)) == []


@pytest.mark.parametrize("rule", BOTH, ids=lambda r: r.__name__)
@pytest.mark.parametrize("path", VARIANTS, ids=label)
def test_variant(path, rule):
    assert rule(read(path), path) == []


# --- each rule can fail -------------------------------------------------------------------------

PATH = ROOT / "chapters" / "toy.ipynb"
VARIANT_PATH = ROOT / "chapters" / "variants" / "toy" / "seed-1.ipynb"
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


def toy():
    """A small notebook that breaks no rule."""
    new = nbformat.v4
    where = URL.removeprefix("https://github.com/")
    badge = f"https://colab.research.google.com/github/{where}/blob/main/chapters/toy.ipynb"
    claims = [
        {"id": "a", "kind": "dynamics", "verdict": "reproduced", "seeds": 3},
        {"id": "b", "kind": "control", "verdict": "reproduced", "seeds": 1},
    ]
    figure = new.new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure size 1x1>"})
    report = new.new_output(
        "display_data",
        {"text/plain": "2 of 2"},
        metadata={"nclib": {"claims": claims, "run": {"slug": "toy"}}},
    )
    described = {
        "image": {"alt": "A single blue point on white ground."},
        "figure": {"caption": "Where everything ends: one point."},
    }
    cells = [
        new.new_markdown_cell(f"# Toy\n\n[Colab]({badge})"),
        new.new_code_cell(
            f'%pip install -q --no-deps "x @ git+{URL}"',
            metadata={"tags": ["nbval-skip", "remove-cell"]},
        ),
        new.new_code_cell(
            'preset: str = "auto"  # scale\nseed: int = 0  # draws',
            metadata={"tags": ["parameters"]},
        ),
        new.new_markdown_cell("A figure follows."),
        new.new_code_cell("plt.show()", outputs=[figure], metadata={"mystnb": described}),
        new.new_markdown_cell("It shows a point."),
        new.new_code_cell("claims.report()", outputs=[report]),
    ]
    nb = new.new_notebook(cells=cells)
    nb.metadata.update(
        kernelspec={"name": "python3", "display_name": "Python 3"}, accelerator="GPU"
    )
    for i, c in enumerate(code_cells(nb)):
        c.execution_count = i + 1
    return nb


def set_tags(cell, *new):
    cell.metadata["tags"] = list(new)


def stream(text, name="stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


def show(data):
    return nbformat.v4.new_output("display_data", data)


# One way to break each rule; ``c`` holds the code cells: install, parameters, figure, report.
DOCTORED = [
    (valid_format, lambda nb, c: nb.update(nbformat_minor=4)),
    (kernel_is_python3, lambda nb, c: nb.metadata.kernelspec.update(name="venv")),
    (every_cell_ran_in_order, lambda nb, c: c[2].update(execution_count=None)),
    (
        every_cell_ran_in_order,
        lambda nb, c: (c[1].update(execution_count=3), c[2].update(execution_count=2)),
    ),
    (every_cell_ran_in_order, lambda nb, c: nb.cells[3].update(source=" \n")),
    (one_typed_parameters_cell, lambda nb, c: set_tags(c[1])),
    (one_typed_parameters_cell, lambda nb, c: set_tags(c[2], "parameters")),
    (
        one_typed_parameters_cell,
        lambda nb, c: c[1].update(source='preset: str = "a"  # x\nseed = 0  # x'),
    ),
    (
        one_typed_parameters_cell,
        lambda nb, c: c[1].update(source='preset: str = "a"\nseed: int = 0  # x'),
    ),
    (one_typed_parameters_cell, lambda nb, c: c[1].update(source='preset: str = "a"  # x')),
    (
        one_typed_parameters_cell,
        lambda nb, c: (
            set_tags(c[2], *tags(c[1])),
            set_tags(c[1]),
            c[2].update(source=c[1].source),
        ),
    ),
    (claims_reported_last, lambda nb, c: c[3].outputs[0].metadata.pop("nclib")),
    (claims_reported_last, lambda nb, c: nb.cells.append(nbformat.v4.new_code_cell("1"))),
    (claims_reported_last, lambda nb, c: c[2].outputs.append(copy.deepcopy(c[3].outputs[0]))),
    (claims_reported_last, lambda nb, c: records(nb)[0]["run"].update(slug="other")),
    (has_controls, lambda nb, c: records(nb)[0]["claims"].pop()),
    (dynamics_and_data_use_seeds, lambda nb, c: records(nb)[0]["claims"][0].update(seeds=2)),
    (no_stderr, lambda nb, c: c[2].outputs.append(stream("warning", "stderr"))),
    (
        no_errors,
        lambda nb, c: c[2].outputs.append(
            nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])
        ),
    ),
    (no_svg, lambda nb, c: c[2].outputs.append(show({"image/svg+xml": "<svg/>"}))),
    (no_svg, lambda nb, c: c[2].outputs.append(show({"text/html": "<p><svg></svg></p>"}))),
    (
        no_figure_objects,
        lambda nb, c: c[2].outputs.append(
            nbformat.v4.new_output(
                "execute_result",
                {"text/plain": "[<matplotlib.lines.Line2D object>]"},
                execution_count=3,
            )
        ),
    ),
    (no_figure_objects, lambda nb, c: c[2].outputs.append(stream("<object at 0x7f3a2b1c>"))),
    (no_runner_metadata, lambda nb, c: nb.metadata.update(papermill={})),
    (no_runner_metadata, lambda nb, c: c[2].metadata.update(execution={})),
    (short_outputs, lambda nb, c: c[2].outputs.append(stream("x\n" * (MAX_OUTPUT_LINES + 1)))),
    (install_cell_first, lambda nb, c: set_tags(c[0], "remove-cell")),
    (install_cell_first, lambda nb, c: set_tags(c[0], "nbval-skip")),
    (install_cell_first, lambda nb, c: c[0].update(source=c[0].source.replace("--no-deps", ""))),
    (install_cell_first, lambda nb, c: c[0].update(source=c[0].source.replace("github", "gitlab"))),
    (install_cell_first, lambda nb, c: c[0].outputs.append(stream("Installing"))),
    (only_the_install_cell_is_skipped, lambda nb, c: set_tags(c[2], "nbval-ignore-output")),
    (
        only_the_install_cell_is_skipped,
        lambda nb, c: c[2].update(source="# NBVAL_SKIP\nplt.show()"),
    ),
    (asks_for_a_gpu, lambda nb, c: nb.metadata.pop("accelerator")),
    (no_private_paths, lambda nb, c: c[2].outputs.append(stream("saved to /home/me/x.png"))),
    (not_injected, lambda nb, c: set_tags(c[2], "injected-parameters")),
    (opens_with_title_and_badge, lambda nb, c: nb.cells[0].update(source="# Toy")),
    (opens_with_title_and_badge, lambda nb, c: nb.cells[0].update(source="no title")),
    (one_title, lambda nb, c: nb.cells[3].update(source="# Another")),
    (prose_around_figures, lambda nb, c: nb.cells.pop(5)),
    (prose_around_figures, lambda nb, c: nb.cells.insert(5, copy.deepcopy(nb.cells[4]))),
]


@pytest.mark.parametrize("rule", BOTH + CHAPTER_ONLY, ids=lambda r: r.__name__)
def test_a_good_notebook_passes(rule):
    assert rule(toy(), PATH) == []
    if rule in BOTH:
        assert rule(toy(), VARIANT_PATH) == []


@pytest.mark.parametrize(("rule", "doctor"), DOCTORED, ids=lambda x: getattr(x, "__name__", ""))
def test_a_doctored_notebook_fails(rule, doctor):
    nb = toy()
    doctor(nb, code_cells(nb))
    assert rule(nb, PATH) != []


def test_every_rule_has_a_doctored_notebook():
    assert {rule for rule, _ in DOCTORED} == {*BOTH, *CHAPTER_ONLY}


def test_a_control_in_prose_is_no_title():
    nb = toy()
    nb.cells[3].source = "```python\n# a comment\n```"
    assert one_title(nb, PATH) == []
