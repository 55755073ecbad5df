"""The faults planted in nclib can still be planted: ``python -m tests.mutate`` runs them."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_fault_has_its_place_and_its_tests():
    found = runpy.run_path(str(ROOT / "tests" / "mutate.py"))["faults"]()
    assert len(found) >= 60
    assert len({fault["fault"] for fault in found}) == len(found)
    for fault in found:
        assert fault["find"] != fault["replace"]
        assert all((ROOT / "tests" / name).exists() for name in fault["tests"].split())
