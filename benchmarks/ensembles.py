"""Many small networks at once against one after the other: steps a second and the same weights.

    python benchmarks/ensembles.py            print the section
    python benchmarks/ensembles.py --write    and put it at the end of pages/benchmarks.md
    python benchmarks/ensembles.py --quick    small sizes, to see that it runs

One after the other is a plain torch loop with torch.optim.SGD on the same batches from the same
starts. Times are CPU times on one thread, the best of several rounds in which the two take turns;
both must end at the same weights, up to rounding.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[:2]]

from metrics import PAGE, command, cpu_times, table  # noqa: E402

from nclib import ensembles, models  # noqa: E402

TITLE = "## Many networks at once"
FULL = {"nets": [(196, (32, 16)), (196, (128, 64)), (784, (512, 512))], "members": 24,
        "steps": 20, "rounds": 3}
QUICK = {"nets": [(12, (8, 4))], "members": 3, "steps": 3, "rounds": 1}
HYPER = {"momentum": 0.9, "decay": 5e-4}


def measure(inputs: int, widths: tuple[int, ...], cfg: dict) -> tuple[dict[str, float], int]:
    """CPU seconds of both ways, and weights of one network."""
    members, steps, n = cfg["members"], cfg["steps"], 64
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1000, inputs, generator=draw)
    y = torch.randint(10, (1000,), generator=draw)
    batches = torch.randint(1000, (steps, members, n), generator=draw)
    start = ensembles.seeded(lambda: models.MLP(inputs, widths, 10), range(members))
    alone = [start.member(b) for b in range(members)]

    def together():
        nets = copy.deepcopy(start)
        ensembles.train(nets, x, y, batches=batches,
                        optimizer=ensembles.SGD(nets, rate=0.05, **HYPER))
        return nets.head.weight.detach()

    def one_by_one():
        ends = []
        for b, first in enumerate(alone):
            net = copy.deepcopy(first).train()
            optimizer = torch.optim.SGD(net.parameters(), lr=0.05, weight_decay=HYPER["decay"],
                                        momentum=HYPER["momentum"])
            for index in batches[:, b]:
                optimizer.zero_grad()
                cross_entropy(net(x[index]), y[index]).backward()
                optimizer.step()
            ends.append(net.head.weight.detach())
        return torch.stack(ends)

    best, ends = cpu_times({"together": together, "one by one": one_by_one}, cfg["rounds"])
    off = (ends["together"] - ends["one by one"]).norm() / ends["one by one"].norm()
    assert off < 1e-2, f"weights differ by {off:.1e}"  # rounding alone, over all steps
    return best, sum(p.numel() for p in alone[0].parameters())


def render(cfg: dict) -> str:
    rows, updates = [], cfg["members"] * cfg["steps"]
    for inputs, widths in cfg["nets"]:
        best, weights = measure(inputs, widths, cfg)
        rows.append(["-".join(map(str, (inputs, *widths, 10))), f"{weights:,}",
                     *(f"{1e3 * best[k] / updates:.2f} ms" for k in ("one by one", "together")),
                     f"{best['one by one'] / best['together']:.1f} ×"])
    return TEXT.format(
        title=TITLE, version=torch.__version__.split("+")[0], **cfg,
        table=table(["network", "weights", "one by one", "together", "gain"], rows))


TEXT = """\
{title}

`nclib.ensembles` trains networks as one with a leading axis. `benchmarks/ensembles.py` compares
{members} fully connected networks, trained so, with a plain torch loop over the same networks,
starts and batches of 64; both end at the same weights, up to rounding. CPU time a network
and step on one thread, torch {version}, the best of {rounds} rounds. What is gained is the time
around the arithmetic: small networks gain, on one thread large ones lose.

{table}
"""


def write(section: str) -> None:
    page = PAGE.read_text(encoding="utf-8").partition(TITLE)[0].rstrip("\n")
    PAGE.write_text(f"{page}\n\n{section}", encoding="utf-8")


def main(argv: list[str] | None = None) -> str:
    return command(argv, __doc__, lambda quick: render(QUICK if quick else FULL), write)


if __name__ == "__main__":
    main()
