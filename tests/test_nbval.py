"""What nbval accepts and refuses, with the hook of the root conftest: it must be able to fail."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nbformat.v4 import new_output
from tiny import SLUG, claim, code, display_output, notebook, record

from reproduce.layout import Layout, dumps, write

ROOT = Path(__file__).parent.parent

SHOW = """
    import json
    from IPython.display import display
    display({"text/plain": "report"}, raw=True, metadata=json.loads(r'''RECORD'''))
"""


def text(content: str):
    return new_output("stream", name="stdout", text=content)


def printed(now: str, stored: str):
    """A cell that prints ``now`` where ``stored`` is stored."""
    return code(f"print({now!r})", "-", outputs=[text(stored + "\n")], count=1)


def reported(now: dict | None, stored: dict | None, *tags: str):
    """A cell that reports ``now`` where ``stored`` is stored."""
    metadata = {"nclib": stored} if stored else {}
    source = SHOW.replace("RECORD", json.dumps({"nclib": now} if now else {}))
    return code(source, "-", *tags, outputs=[display_output(metadata)], count=1)


def cleared(*tags: str):
    return code("print(1)", "-", *tags)


GOOD = {
    "same": printed("NC1 0.25, rank 9", "NC1 0.25, rank 9"),
    "approximate-number": printed("loss ≈0.1234", "loss ≈0.1239"),
    "approximate-exponent": printed("gap ≈-1.2e-12 and ≈3", "gap ≈8e-13 and ≈4"),
    "approximate-text": printed("ran on ≈[H200, 12 s]", "ran on ≈[cpu, 58 s]"),
    "skipped-and-cleared": cleared("nbval-skip"),
    "same-record": reported(record(), record()),
    "within-tolerance": reported(record(claim(measured=0.55)), record(claim())),
    "other-run-facts": reported(record(seconds=99.0, device="H200"), record()),
    "other-preset-same-verdicts": reported(
        record(claim(measured=0.9), preset="gpu"), record(claim(), slug="elsewhere")
    ),
    "stored-not-reproduced": reported(
        record(claim(verdict="not reproduced")), record(claim(verdict="not reproduced"))
    ),
}
BAD = {
    "exact-number": printed("rank 9", "rank 8"),
    "last-digit": printed("NC1 0.2501", "NC1 0.2502"),
    "text-around-number": printed("loss ≈0.1 nats", "loss ≈0.1 bits"),
    "cleared": cleared(),
    "exception": code("1 / 0", "-", count=1),
    "verdict-lost": reported(record(claim(verdict="not reproduced")), record(claim())),
    "verdict-gained": reported(record(claim()), record(claim(verdict="not reproduced"))),
    "out-of-tolerance": reported(record(claim(measured=0.61)), record(claim())),
    "changed-bound": reported(
        record(claim(bound={"op": "below", "value": 3.0})), record(claim())
    ),
    "missing-claim": reported(record(claim("a")), record(claim("a"), claim("b"))),
    "new-claim": reported(record(claim("a"), claim("b")), record(claim("a"))),
    "record-lost": reported(None, record()),
    "record-not-stored": reported(record(), None),
    "ignored-output-still-compared": reported(
        record(claim(verdict="not run")), record(claim()), "nbval-ignore-output"
    ),
    "other-preset-other-verdict": reported(
        record(claim(verdict="not reproduced"), preset="gpu"), record(claim(), slug="elsewhere")
    ),
    # A record is stored for the preset `gpu` as well: 0.1. Like is compared with like.
    "near-the-other-preset-only": reported(record(claim(), preset="gpu"), record(claim())),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, str]:
    """One notebook, one cell a case: ``"passed"``, ``"failed"`` or ``"skipped"`` by name."""
    layout = Layout(tmp_path_factory.mktemp("nbval"))
    shutil.copy(ROOT / "conftest.py", layout.root)
    shutil.copy(ROOT / "nbval.cfg", layout.root)
    write(layout.root / "pytest.ini", "[pytest]\n")
    cases = {**GOOD, **BAD}
    for index, cell in enumerate(cases.values()):
        cell.id = f"cell-{index}"
    write(layout.chapter("cases"), dumps(notebook(*cases.values())))
    gpu = record(claim(measured=0.1), preset="gpu", variant="gpu")
    write(layout.stored(SLUG, "gpu"), dumps(notebook(reported(gpu, gpu))))
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "--nbval", "--nbval-sanitize-with", "nbval.cfg",
         "-p", "no:cacheprovider", "--color=no", "--rootdir", ".", "-c", "pytest.ini",
         "chapters/cases.ipynb"],
        cwd=layout.root, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )
    lines = re.findall(r"::Cell (\d+) (PASSED|FAILED|SKIPPED)", result.stdout)
    assert len(lines) == len(cases), result.stdout + result.stderr
    names = list(cases)
    found = {names[int(index)]: outcome.lower() for index, outcome in lines}
    return found | {"output": result.stdout}


@pytest.mark.parametrize("name", GOOD)
def test_accepted(outcomes, name):
    expected = "skipped" if name == "skipped-and-cleared" else "passed"
    assert outcomes[name] == expected, outcomes["output"]


@pytest.mark.parametrize("name", BAD)
def test_refused(outcomes, name):
    assert outcomes[name] == "failed", outcomes["output"]


def test_the_message_names_claim_and_values(outcomes):
    assert "gap: verdict was reproduced, now not reproduced" in outcomes["output"]
    assert "gap: measured 0.61, stored 0.5 ± 0.1" in outcomes["output"]
    assert "gap: measured 0.5, stored 0.1 ± 0.1" in outcomes["output"]  # the gpu record
    assert "cleared notebook" in outcomes["output"]
