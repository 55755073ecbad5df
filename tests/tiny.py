"""A tiny chapter, whose notebook needs neither torch nor nclib to run, and its records."""

import json
from textwrap import dedent

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

SLUG = "geometric-analysis"
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJg"
    "gg=="
)

REPORT = """
    import json
    from IPython.display import display

    record = json.loads(r'''RECORD''')
    record["run"]["seed"] = seed
    record["run"]["preset"] = "cpu" if preset == "auto" else preset
    first = record["claims"][0]
    first["measured"] = 0.5 + shift + 0.001 * seed
    if first["measured"] > first["bound"]["value"]:
        first["verdict"] = "not reproduced"
        record["abstract"][0]["verdict"] = "not reproduced"
    for one in record["claims"]:
        display({"text/plain": one["id"]}, raw=True, metadata={"nclib_claim": one["id"]})
    display({"text/plain": "report"}, raw=True, metadata={"nclib": record})
"""


def claim(id="gap", measured=0.5, verdict="reproduced", tolerance=0.1, **changes) -> dict:
    """One claim as ``nclib.claims`` records it."""
    base = {
        "id": id, "statement": f"The {id} | of *W* under $\\lambda_W$ is small.", "says": "work",
        "source": "Theorem 1", "kind": "theory", "scope": "exact", "measured": measured,
        "values": None, "bound": {"op": "below", "value": 1.0}, "tolerance": tolerance,
        "paper": None, "paper_value": None, "rival": None, "verdict": verdict, "seeds": 1,
        "spread": None, "controls": None, "note": "",
    }
    return base | changes


def assertion(id="holds", *claims, verdict="reproduced", **changes) -> dict:
    """One assertion of the abstract as ``nclib.claims`` records it."""
    base = {
        "id": id, "text": f"The assertion {id} holds.", "claims": list(claims or ("gap",)),
        "reason": None, "verdict": verdict, "scope": "exact",
    }
    return base | changes


def record(*claims, preset="cpu", variant="default", **run) -> dict:
    """A record as ``Claims.report`` leaves it in the output's metadata."""
    facts = {
        "slug": SLUG, "variant": variant, "preset": preset, "seed": 0, "device": "cpu",
        "threads": 1, "seconds": 12.3, "versions": {"python": "3.11", "torch": "2.13"},
        "commit": "0123456789abcdef",
    }
    rank = claim("rank", measured=3, tolerance=0.0, bound={"op": "equals", "value": 3}, says="book",
                 scope=None)
    return {
        "schema": 2, "claims": list(claims or (claim(), rank)), "abstract": [assertion()],
        "run": facts | run,
    }


def display_output(metadata=None, **data) -> nbformat.NotebookNode:
    return new_output("display_data", data=data or {"text/plain": "report"},
                      metadata=metadata or {})


def code(source: str, id: str, *tags: str, outputs=(), count=None) -> nbformat.NotebookNode:
    cell = new_code_cell(dedent(source).strip("\n"), id=id, execution_count=count,
                         outputs=list(outputs))
    if tags:
        cell.metadata["tags"] = list(tags)
    return cell


def notebook(*cells) -> nbformat.NotebookNode:
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=list(cells), metadata={
        "kernelspec": kernel, "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        "accelerator": "GPU",
    })


def chapter(code_line: str = "print(2 + seed * 0)") -> nbformat.NotebookNode:
    """The chapter, not run: ``shift`` moves its one value, 0.6 breaks the bound."""
    figure = code(
        f"""
        import base64
        from IPython.display import Image, display
        display(Image(base64.b64decode("{PNG}")))
        """, "figure", "cover",
    )
    figure.metadata["mystnb"] = {"figure": {"caption": "One pixel.", "name": "fig-one"}}
    title = "(top)=\n# Tiny\n\nSee [notation](../pages/notation.md) and [web](https://x.org)."
    return notebook(
        new_markdown_cell(title.replace("(top)=\n", ""), id="title"),
        new_markdown_cell("", id="badges", metadata={"tags": ["badges"]}),
        code("# https://github.com/o/book\nimport sys", "install", "nbval-skip"),
        code(
            """
            preset: str = "auto"   # "cpu" or "gpu"
            seed: int = 0          # every draw
            shift: float = 0.0     # moves the value
            depths: list[int] = [1, 2]
            """, "parameters", "parameters",
        ),
        new_markdown_cell("(label)=\n## Part\n\n$$\nx\n$$ (eq-x)\n", id="part"),
        code(code_line, "exact"),
        figure,
        code(REPORT.replace("RECORD", json.dumps(record())), "report"),
    )


VARIANTS = {
    SLUG: {
        "seed-1": {"title": "seed 1", "parameters": {"seed": 1}, "about": "Other draws."},
        "gpu": {"title": "GPU", "parameters": {"preset": "gpu"}, "needs": ["gpu"]},
        "broken": {"title": "broken", "parameters": {"shift": 0.6}},
    }
}
