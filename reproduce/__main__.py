"""Command line: ``python -m reproduce COMMAND``, from the root of a checkout."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

from . import book, faults, ledger, notebooks, pdf, platforms, project, seeds, store
from .layout import BookError, Layout
from .plan import select
from .run import TIMEOUT, Options, Row, exit_code, guarded, run, say, table

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog="python -m reproduce",
        description="Run the chapters, compare them with what is stored, and build the book.",
    )
    main.add_argument("--root", help="checkout to work in (default: the one of this package)")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")

    def targets(sub) -> None:
        sub.add_argument("targets", nargs="*", metavar="SLUG[/VARIANT]", help="default: all")

    def resources(sub) -> None:
        sub.add_argument("--jobs", type=positive, metavar="N",
                         help="notebooks at a time (default: one a core)")
        sub.add_argument("--threads", type=positive, metavar="N",
                         help="threads a notebook (default: cores divided by jobs, so one)")
        sub.add_argument("--timeout", type=float, default=TIMEOUT, metavar="S",
                         help="seconds a notebook may take (default: %(default)g)")
        sub.add_argument("--force", action="store_true", help="run also what is up to date")

    sub = command("run", "execute chapters and their variants into _build/reproduce, and compare "
                         "the verdicts and values with the stored ones")
    targets(sub)
    resources(sub)
    sub.add_argument("-p", dest="parameters", action="append", default=[], metavar="NAME=VALUE",
                     help="an unstored variant; 0,1,2 or 0..9 makes one of each value")
    sub.add_argument("--scheduler", metavar="ADDRESS", help="send the jobs to this Dask scheduler")
    sub.add_argument("--download", action="store_true", help="let variants fetch data")

    sub = command("seeds", "run seeds 0 to 9 of the cpu preset and keep values and verdicts of "
                           "every claim in chapters/seeds")
    sub.add_argument("targets", nargs="*", metavar="SLUG", help="default: all")
    resources(sub)

    sub.add_argument("--collect", action="store_true",
                     help="run nothing: keep the record of the seeds that have finished")

    sub = command("faults", "plant the faults of tests/faults one at a time and see which claims "
                            "turn red")
    sub.add_argument("targets", nargs="*", metavar="SLUG", help="default: all")
    resources(sub)

    sub = command("platforms", "run chapters with another torch, threads, hash "
                               "seeds and kernels, and keep the verdicts in chapters/platforms")
    sub.add_argument("targets", nargs="*", metavar="SLUG", help="default: all")
    sub.add_argument("--python", metavar="PATH",
                     help="an interpreter with another torch, and papermill")
    resources(sub)

    sub = command("check", "compare executed notebooks with the stored ones, and those with their "
                           "sources")
    sub.add_argument("folder", nargs="?", type=Path, metavar="DIR",
                     help="executed notebooks (default: _build/reproduce)")

    sub = command("store", "put executed notebooks in the place of the stored ones")
    targets(sub)
    sub.add_argument("--from", dest="archive", type=Path, metavar="ZIP",
                     help="first unpack the results of a bundle")
    sub.add_argument("--text", action="store_true",
                     help="take the chapters' present text into stored variants, outputs unchanged")

    sub.add_argument("--accept", action="store_true",
                     help="store also where a verdict or value has changed")

    command("pages", "execute the notebooks that are no chapters (pages/*.ipynb) and store them")

    sub = command("ledger", "write the ledger, the status tables, the badges and the cover")
    sub.add_argument("--check", action="store_true", help="write nothing; fail if one is outdated")

    sub = command("book", "execute all chapters, compare, and build the book in _build/html")
    resources(sub)
    command("html", "build the book in _build/html from the stored outputs")

    command("pdf", "print _build/html to one PDF with a headless Chromium")

    sub = command("url", "set the repository's address everywhere")
    sub.add_argument("new", metavar="NEW", help="https://github.com/OWNER/NAME")

    sub = command("bundle", "write one archive that runs the chapters on a machine without network")
    sub.add_argument("--out", type=Path, metavar="FILE", help="default: _build/bundle.zip")
    sub.add_argument("--data", type=Path, metavar="DIR", help="data folder to take along")
    return main


def options(args: argparse.Namespace) -> Options:
    names = ("jobs", "threads", "scheduler", "force", "timeout", "download")
    return Options(**{n: getattr(args, n) for n in names if hasattr(args, n)})


def finish(rows: list[Row]) -> int:
    table(rows)
    return exit_code(rows)


def act(args: argparse.Namespace) -> int:
    layout = Layout.find(args.root)
    if args.command == "run":
        variants = select(layout, args.targets, args.parameters)
        return finish(run(layout, variants, options(args)))
    if args.command == "seeds" and args.collect:
        slugs = [v.slug for v in select(layout, args.targets, defaults=True)]
        return finish([guarded(s, partial(seeds.collect, partial=True), layout, s) for s in slugs])
    if args.command in ("seeds", "faults"):
        act_ = seeds.run if args.command == "seeds" else faults.run
        return finish(act_(layout, args.targets, options(args)))
    if args.command == "platforms":
        return finish(platforms.run(layout, args.targets, options(args), args.python))
    if args.command == "check":
        return finish(store.check(layout, args.folder))
    if args.command == "store":
        chosen = args.targets
        if args.archive:  # only what it holds, never what lies in the folder of runs besides
            held = store.unpack(layout, args.archive)
            known = {v.label for v in select(layout, [])}
            chosen = args.targets or [label for label in held if label in known]
            if not chosen:
                raise BookError(f"{args.archive} holds no declared run")
        return finish(store.store(layout, chosen, text=args.text, accept=args.accept))
    if args.command == "pages":
        return finish(notebooks.store(layout))
    if args.command == "ledger":
        changed = ledger.update(layout, check=args.check)
        for path in changed:
            say(f"{'outdated' if args.check else 'written'}: {path.relative_to(layout.root)}")
        return FAILED if changed and args.check else 0
    if args.command == "book":
        return exit_code(book.build(layout, execute=True, options=options(args)))
    if args.command == "html":
        return exit_code(book.build(layout, execute=False, options=Options()))
    if args.command == "pdf":
        pdf.write(layout)
        return 0
    if args.command == "url":
        for path in project.set_url(layout, args.new):
            say(f"written: {path.relative_to(layout.root)}")
        return 0
    out = args.out or layout.build / "bundle.zip"
    say(f"bundle: {project.bundle(layout, out, args.data)}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 in order, 1 a difference or failure, 2 misuse, 130 interrupted."""
    args = parser().parse_args(argv)
    try:
        return act(args)
    except BookError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return FAILED if args.command in ("book", "html") else MISUSED
    except KeyboardInterrupt:
        print("reproduce: interrupted; what finished is kept, run again to go on", file=sys.stderr)
        return INTERRUPTED


def interrupt(number: int, frame) -> None:
    """Begin the ending; a second signal would only break it off and leave notebooks at work."""
    listen(signal.SIG_IGN)
    raise KeyboardInterrupt


def listen(handler) -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # also where a shell had set SIGINT aside
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), handler)


if __name__ == "__main__":
    listen(interrupt)
    code = main()
    if code == INTERRUPTED:  # what has not ended by now holds nothing up
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
