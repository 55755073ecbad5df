"""The project's files agree with each other: environments, slugs, addresses, workflows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from reproduce import ledger, records
from reproduce.layout import Layout
from reproduce.project import text_files

ROOT = Path(__file__).resolve().parents[1]


def text(path):
    return (ROOT / path).read_text(encoding="utf-8")


def load(path):
    return yaml.safe_load(text(path))


CONFIG = load("_config.yml")
TOC = load("_toc.yml")
ENTRIES = load("chapters/works.yml")
WORKS = [e for e in ENTRIES if not e.get("synthesis")]
URL = CONFIG["repository"]["url"]
PLACEHOLDER = "https://github.com/neural-collapse-reproduced/book"
PROJECT = tomllib.loads(text("pyproject.toml"))["project"]
CHAPTERS = {p.stem for p in (ROOT / "chapters").glob("*.ipynb")}
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def files():
    """Files of the project: those under version control and those about to be."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    return text_files(ROOT)


def tracked():
    """Text files of the project."""
    binary = {".png", ".npz", ".gz", ".ico", ".jpg", ".gif", ".woff2"}
    theirs = ROOT / "pages" / "_static" / "katex"  # unchanged copies
    return [p for p in files() if p.suffix not in binary and theirs not in p.parents]


def test_a_checkout_travels_easily():
    """Each full run anew adds its pictures to the history: what is stored stays below 25 MB."""
    assert sum(p.stat().st_size for p in files()) < 25_000_000


# --- environments -------------------------------------------------------------------------------


def requirements():
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(r) for rs in lists for r in rs]


def pins():
    lines = [line.split("#")[0].strip() for line in text("constraints.txt").splitlines()]
    return {canonicalize_name(r.name): r for r in map(Requirement, filter(None, lines))}


def test_constraints_are_exact_and_public():
    for name, pin in pins().items():
        (spec,) = pin.specifier
        assert spec.operator == "==" and "+" not in spec.version, f"{name}: {pin}"


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_every_requirement_is_pinned_within_its_bounds(requirement):
    pin = pins().get(canonicalize_name(requirement.name))
    assert pin is not None, f"{requirement.name} is not in constraints.txt"
    (spec,) = pin.specifier
    assert requirement.specifier.contains(spec.version, prereleases=True)


def test_library_has_lower_bounds_only():
    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert {s.operator for s in requirement.specifier} == {">="}, requirement


def test_environment_file_agrees_with_pyproject():
    dependencies = load("environment.yml")["dependencies"]
    (pip,) = [d["pip"] for d in dependencies if isinstance(d, dict)]
    assert pip == ["--constraint constraints.txt", "--editable .[book,test]"]
    (python,) = [d for d in dependencies if isinstance(d, str) and d.startswith("python")]
    allowed = SpecifierSet(python.removeprefix("python"))
    wanted = SpecifierSet(PROJECT["requires-python"])
    for minor in range(8, 15):
        version = f"3.{minor}.0"
        assert version not in allowed or version in wanted, version
    assert "3.11.0" in allowed and "3.13.0" in allowed


# --- slugs --------------------------------------------------------------------------------------


def toc_files(entries):
    for entry in entries:
        if "file" in entry:
            yield entry["file"]
        for key in ("parts", "chapters", "sections"):
            yield from toc_files(entry.get(key, []))


def test_nine_works():
    slugs = [w["slug"] for w in WORKS]
    assert len(slugs) == len(set(slugs)) == 9
    assert CHAPTERS <= {e["slug"] for e in ENTRIES}


def test_a_synthesis_stands_last_and_has_no_assertions():
    rest = ENTRIES[len(WORKS):]
    assert rest and all(e.get("synthesis") is True and "assertions" not in e for e in rest)


def test_toc_lists_the_written_chapters_in_order():
    in_toc = [
        f.removeprefix("chapters/") for f in toc_files([TOC]) if re.match("chapters/[^/]+$", f)
    ]
    assert in_toc == [e["slug"] for e in ENTRIES if e["slug"] in CHAPTERS]


def test_every_toc_file_exists():
    changes = {f"pages/what-changes/{slug}" for slug in CHAPTERS}
    made = {"pages/ledger", "pages/found", "pages/trust", "pages/cost", *changes}  # while staging
    for file in [TOC["root"], *toc_files([TOC])]:
        if file in made:
            assert not (ROOT / f"{file}.md").exists(), f"{file} is made while staging"
            continue
        assert any((ROOT / f"{file}{ext}").exists() for ext in (".md", ".ipynb")), file


def test_no_page_is_a_variant_and_every_chapter_has_its_page_of_changes():
    files = list(toc_files([TOC]))
    assert not [f for f in files if f.startswith("chapters/variants")]
    assert {f for f in files if f.startswith("pages/what-changes/")} == {
        f"pages/what-changes/{slug}" for slug in CHAPTERS
    }


def test_variants_are_declared_for_every_written_chapter():
    variants = load("chapters/variants.yml")
    assert set(variants) >= CHAPTERS
    for slug in CHAPTERS:
        folder = ROOT / "chapters" / "variants" / slug
        assert {p.stem for p in folder.glob("*.ipynb")} <= set(variants[slug])


@pytest.mark.parametrize("page", ["README.md", "intro.md"])
def test_every_work_is_in_the_status_table(page):
    content = text(page)
    table = content.split("<!-- generated:status -->")[1].split("<!-- /generated:status -->")[0]
    for work in WORKS:
        assert work["title"] in table, f"{page}: {work['slug']}"


def test_ledger_names_every_written_chapter():
    page = ledger.ledger_page(Layout(ROOT))
    assert [s for s in CHAPTERS if f'id="{s}"' not in page] == []


def test_bibliography_has_every_work():
    keys = set(re.findall(r"@\w+\{([^,]+),", text("references.bib")))
    assert {w["slug"] for w in WORKS} <= keys


def test_notation_has_a_section_for_every_written_chapter():
    notation = text("pages/notation.md")
    assert [s for s in CHAPTERS if f"../chapters/{s}.ipynb" not in notation] == []


# --- one address --------------------------------------------------------------------------------


def test_repository_address_is_the_same_everywhere():
    owner = URL.removeprefix("https://github.com/")
    links = re.compile(
        r"(?:https://github\.com/|/github/|git\+https://github\.com/)([\w.-]+/book)\b"
    )
    wrong = []
    for path in tracked():
        if path.is_relative_to(ROOT / "tests"):
            continue  # tests move the book to made-up addresses
        for found in links.findall(path.read_text(encoding="utf-8")):
            if found != owner:
                wrong.append(f"{path.relative_to(ROOT)}: {found}")
    assert wrong == []
    assert PROJECT["urls"]["Repository"] == URL
    assert load("CITATION.cff")["repository-code"] == URL
    assert f"git+{URL}" in text("README.md")


def test_readme_says_that_the_placeholder_is_one():
    assert URL != PLACEHOLDER or "placeholder" in text("README.md")


def test_version_is_cited():
    assert load("CITATION.cff")["version"] == PROJECT["version"]
    assert json.loads(text(".zenodo.json"))["version"] == PROJECT["version"]
    assert f"\n## {PROJECT['version']}\n" in text("CHANGELOG.md")


# --- words --------------------------------------------------------------------------------------

# Left-overs of the workshop. (The brackets keep these patterns from matching themselves.)
LEFTOVERS = re.compile(
    r"\b(?:TO[D]O|FIX[M]E|XX[X])\b|[Dd]os[s]ier|\bshared[/]|(?<![\w./])/(?:work|root)[/]\w"
)
# American spelling in prose and identifiers; titles stay as their authors wrote them.
BRITISH = re.compile(
    r"\b(?:regular|initial|normal|general|optim|visual|organ|minim|maxim|parametr|diagonal)is(?:e[ds]?|ing|ation|er)\b"
    r"|\b(?:colour|behaviour|neighbour|favour|centre[ds]?)\w*\b|\blicence\b",
    re.IGNORECASE,
)


def test_nothing_is_left_over():
    found = []
    for path in tracked():
        for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if '"image/png":' in line:
                continue
            if m := LEFTOVERS.search(line):
                found.append(f"{path.relative_to(ROOT)}:{n}: {m.group()}")
    assert found == []


def prose():
    return [
        p for p in tracked() if p.suffix in (".md", ".py", ".ipynb") and "LICENSE" not in p.name
    ]


def test_spelling_is_american():
    titles = [w["title"] for w in WORKS]
    found = []
    for path in prose():
        if path == Path(__file__):
            continue
        for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for title in titles:
                line = line.replace(title, "")
            if m := BRITISH.search(line):
                found.append(f"{path.relative_to(ROOT)}:{n}: {m.group()}")
    assert found == []


def others_models():
    """Three models that are not ours, each with a linear head."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    flat = nn.Sequential()
    flat.add_module("body", nn.Sequential(nn.Flatten(), nn.Linear(48, 9), nn.ReLU()))
    flat.add_module("head", nn.Linear(9, 3))
    images = nn.Sequential()
    images.add_module("body", nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    images.add_module("head", nn.Linear(6, 3, bias=False))

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.head = nn.Linear(16, 3)

        def forward(self, x):
            return self.head(self.encoder(x.flatten(2)).mean(1))

    return {"flat": flat, "images": images, "tokens": Tokens()}


@pytest.mark.parametrize("page", ["README.md", "pages/api.md"])
@pytest.mark.parametrize("name", ["flat", "images", "tokens"])
def test_the_ten_lines_run(page, name, capsys):
    import torch

    code = re.search(r"```python\n(import nclib\n\nwith.*?)```", text(page), re.DOTALL).group(1)
    assert len(code.splitlines()) <= 10
    x = torch.randn(60, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    batches = [(x[:30], torch.arange(30) % 3), (x[30:], torch.arange(30) % 3)]
    exec(code, {"loader": batches, "model": others_models()[name]})
    assert len(capsys.readouterr().out.split()) == 4


def test_contributing_is_short():
    assert len(text("CONTRIBUTING.md").splitlines()) <= 40


# --- gate and workflows -------------------------------------------------------------------------


def test_gate_calls_make_test():
    gate = ROOT / ".ci" / "run"
    content = gate.read_text(encoding="utf-8")
    assert gate.stat().st_mode & 0o111
    assert "set -euo pipefail" in content and "make test" in content


def test_make_refuses_an_environment_of_another_python(tmp_path):
    (tmp_path / "Makefile").write_text(text("Makefile"))
    fake = tmp_path / ".venv" / "bin" / "python"
    fake.parent.mkdir(parents=True)
    fake.write_text("#!/bin/sh\necho Python 2.7.18\n")
    fake.chmod(0o755)
    make = ["make", "-C", str(tmp_path)]
    refused = subprocess.run([*make, f"PYTHON={sys.executable}", "help"], capture_output=True,
                             text=True, check=False)
    assert refused.returncode and ".venv holds Python 2.7.18" in refused.stderr
    assert "make clean-env" in refused.stderr
    assert subprocess.run([*make, "help"], capture_output=True, check=False).returncode == 0


def test_notebooks_are_checked_side_by_side():
    recipe = text("Makefile").split("\nnbval:")[1].split("\n\n")[0]
    assert re.search(r"xargs -n 1 -P [2-9]", recipe) and "OMP_NUM_THREADS=1" in recipe


def test_costs_are_measured_in_cpu_time():
    """Chapters run side by side, so a claim about cost must not depend on the clock."""
    clock = re.compile(r"\bperf_counter\b|\btime\.(?:time|monotonic)\(")
    assert [s for s in CHAPTERS if clock.search(text(f"chapters/{s}.ipynb"))] == []


def test_of_claims_about_time_the_verdict_alone_is_compared():
    timed = [s for s in CHAPTERS if "time.process_time" in text(f"chapters/{s}.ipynb")]
    found = [records.of_file(ROOT / "chapters" / f"{s}.ipynb") for s in timed]
    claims = {c["id"]: c for record in found for c in record["claims"]}
    assert len(timed) == len(records.OF_TIME) and set(claims) >= records.OF_TIME
    for id in records.OF_TIME:
        a = claims[id]
        b = a | {"measured": 10 * a["measured"]}
        assert records.compare({"claims": [a]}, {"claims": [b]}) == []
        assert records.agrees(a, b["measured"], a["verdict"])
        b["verdict"] = "not reproduced"
        assert len(records.compare({"claims": [a]}, {"claims": [b]})) == 1
        assert not records.agrees(a, b["measured"], b["verdict"])


def jobs(workflow):
    return load(workflow.relative_to(ROOT))["jobs"].values()


def steps(workflow):
    return [s for job in jobs(workflow) for s in job["steps"]]


def test_four_workflows():
    assert {p.stem for p in WORKFLOWS} == {"ci", "book", "nightly", "colab"}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda p: p.stem)
def test_actions_are_pinned_by_commit(workflow):
    for step in steps(workflow):
        if "uses" in step:
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
    lines = [line for line in workflow.read_text().splitlines() if "uses:" in line]
    assert all(re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line) for line in lines), lines


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda p: p.stem)
def test_workflow_permissions_are_least(workflow):
    content = load(workflow.relative_to(ROOT))
    assert content["permissions"] == {"contents": "read"}
    allowed = {
        "actions": {"read"},
        "pages": {"read", "write"},
        "id-token": {"write"},
        "issues": {"write"},
        "contents": {"read"},
    }
    for job in jobs(workflow):
        for scope, access in job.get("permissions", {}).items():
            assert access in allowed.get(scope, set()), f"{workflow.stem}: {scope}: {access}"
        # A job that may write runs no code of the repository.
        if "write" in job.get("permissions", {}).values():
            assert not any("checkout" in s.get("uses", "") for s in job["steps"])
        assert job["timeout-minutes"] <= 180


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda p: p.stem)
def test_workflow_shell_has_pipefail(workflow):
    content = load(workflow.relative_to(ROOT))
    assert content["defaults"]["run"]["shell"] == "bash"
    assert all("shell" not in s for s in steps(workflow))


def test_pins_are_the_same_in_all_workflows():
    found = {}
    for workflow in WORKFLOWS:
        for step in steps(workflow):
            if "uses" in step:
                action, commit = step["uses"].split("@")
                found.setdefault(action, set()).add(commit)
    assert {a: c for a, c in found.items() if len(c) > 1} == {}


def test_checkout_leaves_no_token_behind():
    for workflow in WORKFLOWS:
        for step in steps(workflow):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_no_workflow_pastes_an_event_into_a_script():
    for workflow in WORKFLOWS:
        for step in steps(workflow):
            assert "${{" not in step.get("run", ""), f"{workflow.stem}: {step.get('name')}"


def test_the_site_is_published_from_a_green_commit_alone():
    publishing = load(".github/workflows/book.yml")["jobs"]
    assert publishing["deploy"]["needs"] == "build" and publishing["build"]["needs"] == "green"
    (step,) = publishing["green"]["steps"]
    assert '--workflow ci.yml --commit "$GITHUB_SHA" --status success' in step["run"]
    ci = load(".github/workflows/ci.yml")["concurrency"]
    assert "github.sha" in ci["group"] and "refs/heads/main" in ci["cancel-in-progress"]


def test_what_the_publishing_job_installs_is_pinned_by_hash():
    installs = [s["run"] for s in steps(ROOT / ".github" / "workflows" / "book.yml")
                if "pip install" in s.get("run", "")]
    assert len(installs) == 1 and "--require-hashes --no-deps" in installs[0]
    lines = text(".github/requirements-book.txt").splitlines()
    hashed = {}
    for line in lines:
        if not line.startswith("#"):
            name, version, _ = re.fullmatch(r"(\S+)==(\S+) --hash=sha256:([0-9a-f]{64})",
                                            line).groups()
            hashed[canonicalize_name(name)] = version.removesuffix("+cpu")
    robots = {canonicalize_name(Requirement(r).name)
              for r in PROJECT["optional-dependencies"]["robots"]} | {"mujoco"}
    wanted = {n: next(iter(p.specifier)).version for n, p in pins().items() if n not in robots}
    assert hashed == wanted


def test_publishing_asserts_the_pages():
    runs = [s.get("run", "") for s in steps(ROOT / ".github" / "workflows" / "book.yml")]
    assert any("tests/test_book.py" in r for r in runs)
