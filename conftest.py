"""nbval also compares claims: each stored record with the fresh one, within its own tolerances.

This file must stay in the root of the checkout, or ``pytest --nbval chapters`` does not load it.
It wraps a private class of nbval, which is why nbval's version is pinned; tests/test_nbval.py
tests the wrapper.
"""

from pathlib import Path

from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell

from reproduce import records
from reproduce.layout import Layout

_runtest = IPyNbCell.runtest


def _differences(stored: dict, fresh: dict | None) -> list[str]:
    """Like is compared with like: the stored record of the fresh run's own preset, if any."""
    if fresh is None:
        return ["the cell stores a claims report and makes none now"]
    preset, run = fresh["run"]["preset"], stored["run"]
    if preset == run["preset"]:
        return records.compare(stored, fresh)
    other, values = records.reference(
        Layout(Path(__file__).parent), run["slug"], run["variant"], preset
    )
    return records.compare(other or stored, fresh, verdicts_only=not values)


def runtest(self):
    """Refuse a cleared cell, let nbval run and compare it, then compare the claims."""
    cleared = self.cell.source.strip() and self.cell.execution_count is None
    if cleared and not self.options["skip"]:
        self.raise_cell_error("The stored cell was not run (cleared notebook)")
    _runtest(self)
    stored, fresh = (
        next(iter(records.of_outputs(outputs)), None)
        for outputs in (self.cell.outputs, self.test_outputs)
    )
    if stored is None and fresh is None:
        return
    differences = _differences(stored, fresh) if stored else ["no claims report is stored"]
    if differences:
        self.raise_cell_error("Claims differ from the stored ones", "\n".join(differences))


IPyNbCell.runtest = runtest


def execute_cell_input(self, cell_input, allow_stdin=None):
    """As nbval's, but with history: IPython looks there for the ``;`` that silences a cell."""
    return self.kc.execute(cell_input, allow_stdin=allow_stdin or False, stop_on_error=False)


RunningKernel.execute_cell_input = execute_cell_input
