"""The repository's address in every file, and the archive for a machine without network."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

from .layout import BookError, Layout, write
from .ledger import url_of

ADDRESS = re.compile(r"https://[\w.-]+(?::\d+)?/([\w.-]+)/([\w.-]+)")

RUN = '''"""Install nclib from this folder, run the variants named, and pack the results.

    python run.py [SLUG[/VARIANT] ...]      (none: everything that this machine can run)

The environment must hold the packages named below. Nothing is downloaded; nclib is unpacked into
the folder `lib` beside this file.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

WHEEL = "@WHEEL@"
PACKAGES = {
    "torch": "torch", "numpy": "numpy", "matplotlib": "matplotlib", "scipy": "scipy",
    "sklearn": "scikit-learn", "papermill": "papermill", "nbformat": "nbformat",
    "ipykernel": "ipykernel", "yaml": "pyyaml", "tqdm": "tqdm", "PIL": "pillow",
}
missing = [p for module, p in PACKAGES.items() if importlib.util.find_spec(module) is None]
if missing:
    sys.exit(f"this Python lacks {', '.join(missing)}: {sys.executable}")
here = Path(__file__).resolve().parent
shutil.rmtree(here / "lib", ignore_errors=True)
with zipfile.ZipFile(here / WHEEL) as wheel:  # pure Python: unpacking is installing
    wheel.extractall(here / "lib")
env = dict(os.environ)
env["PYTHONPATH"] = os.pathsep.join(p for p in (str(here / "lib"), env.get("PYTHONPATH")) if p)
if (here / "data").is_dir():
    env["NCLIB_DATA"] = str(here / "data")
command = [sys.executable, "-m", "reproduce", "run", *sys.argv[1:]]
process = subprocess.Popen(command, cwd=here, env=env)
try:
    code = process.wait()
except KeyboardInterrupt:  # the runner was interrupted too; what finished is packed
    code = process.wait() or 130
runs = here / "_build" / "reproduce"
with zipfile.ZipFile(here / "results.zip", "w", zipfile.ZIP_DEFLATED) as archive:
    done = [p for p in sorted(runs.rglob("*.ipynb")) if not p.name.endswith(".failed.ipynb")]
    for path in done:
        archive.write(path, path.relative_to(runs).as_posix())
print(f"results: {len(done)} notebooks in {here / 'results.zip'}")
sys.exit(code or (0 if done else 3))  # nothing run is no success
'''

README = """Neural Collapse, Reproduced: all that runs the chapters on a machine without network.

1. Unpack this archive.
2. python run.py                    all chapters and variants that the machine can run, or
   python run.py SLUG/VARIANT ...   these alone. Interrupted? The same command goes on.
3. Carry results.zip back, and in a checkout: python -m reproduce store --from results.zip
"""


def text_files(root: Path) -> list[Path]:
    """Files of the checkout that git does not ignore, or all of them outside git."""
    command = ["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "-z"]
    with suppress(OSError):  # no git here
        found = subprocess.run(command, capture_output=True, check=False)
        if found.returncode == 0 and (root / ".git").exists():
            names = found.stdout.decode().split("\0")[:-1]
            return [root / n for n in names if (root / n).is_file()]
    skip = {"_build", ".venv", ".git", "__pycache__", ".ipynb_checkpoints"}
    return [p for p in root.rglob("*") if p.is_file() and not skip & set(p.relative_to(root).parts)]


def spellings(url: str) -> list[str]:
    """The address as it appears: in full, in Colab links, and of the published pages.

    On another host than github.com (GitHub Enterprise) Colab opens nothing and the pages have the
    host's own address: both become the repository's.
    """
    match = ADDRESS.fullmatch(url)
    if not match:
        raise BookError(f"{url!r} is not of the form https://github.com/OWNER/NAME")
    owner, name = match.groups()
    if not url.startswith("https://github.com/"):
        return [url, url, url]
    return [
        url,
        f"https://colab.research.google.com/github/{owner}/{name}",
        f"https://{owner.lower()}.github.io/{name}",
    ]


def set_url(layout: Layout, new: str) -> list[Path]:
    """Replace the repository's address in every file but the tests; the files that changed.

    Raises:
        BookError: not an address of that form.
    """
    new = new.rstrip("/").removesuffix(".git")
    pairs = list(zip(spellings(url_of(layout)), spellings(new), strict=True))
    changed = []
    config = layout.root / "_config.yml"  # last: until then the same command goes on
    for path in sorted(text_files(layout.root), key=lambda p: p == config):
        if path.relative_to(layout.root).parts[0] == "tests":
            continue
        try:
            old_text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        text = old_text
        for old, replacement in pairs:
            text = re.sub(re.escape(old) + r"(?![\w-])", lambda _, r=replacement: r, text)
        if text != old_text:
            write(path, text)
            changed.append(path)
    return changed


def wheel(root: Path, folder: Path) -> Path:
    """Build nclib's wheel.

    Raises:
        BookError: pip failed.
    """
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), "."]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    found = list(folder.glob("*.whl"))
    if result.returncode or len(found) != 1:
        raise BookError(f"pip could not build the wheel: {result.stderr.strip()[-500:]}")
    return found[0]


def bundle(layout: Layout, out: Path, data: Path | None = None) -> Path:
    """Write the archive: wheel, notebooks, runner, and the data folder if one is given.

    Raises:
        BookError: the wheel cannot be built, or there is no such data folder.
    """
    if data is not None and not data.is_dir():
        raise BookError(f"{data} is not a folder")
    files = [
        p for p in text_files(layout.root)
        if p.relative_to(layout.root).parts[0] in ("chapters", "reproduce")
        and p.suffix in (".py", ".ipynb", ".yml")
    ]
    with tempfile.TemporaryDirectory() as folder:
        built = wheel(layout.root, Path(folder))
        target = Path(folder) / "bundle.zip"
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(built, built.name)
            archive.writestr("run.py", RUN.replace("@WHEEL@", built.name))
            archive.writestr("README.txt", README)
            for path in sorted(files):
                archive.write(path, path.relative_to(layout.root).as_posix())
            for path in sorted(data.rglob("*")) if data else []:
                if path.is_file():
                    archive.write(path, f"data/{path.relative_to(data).as_posix()}")
        write(out, target.read_bytes())
    return out
