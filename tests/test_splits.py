"""Long tails, orders, tasks, buffers."""

import numpy as np
import pytest

from nclib.data.splits import class_order, indices, long_tail, replay_buffer, tasks

LABELS = np.random.default_rng(0).integers(0, 5, 200)


def test_long_tail():
    sizes = long_tail(5000, 10, 100)  # CIFAR-10-LT
    assert sizes.tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert long_tail(600, 10, 1).tolist() == [600] * 10
    assert long_tail(600, 5, 10, kind="step").tolist() == [600, 600, 600, 60, 60]
    assert long_tail(10, 4, 1000)[-1] == 1
    for bad in ((0, 5, 2), (5, 1, 2), (5, 5, 0.5), (5, 5, float("nan"))):
        with pytest.raises(ValueError, match="need largest"):
            long_tail(*bad)
    with pytest.raises(ValueError, match="kind"):
        long_tail(5, 5, 2, kind="linear")


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_indices(seed):
    sizes = np.array([3, 0, 7, 20, 1])
    found = indices(LABELS, sizes, seed=seed)
    assert np.bincount(LABELS[found], minlength=5).tolist() == sizes.tolist()
    assert (np.diff(found) > 0).all()
    if seed is None:
        for c, size in enumerate(sizes):
            mine = found[LABELS[found] == c]
            assert mine.tolist() == np.flatnonzero(LABELS == c)[:size].tolist()
    else:
        assert (indices(LABELS, sizes, seed=seed) == found).all()
        assert (indices(LABELS, sizes, seed=seed + 7) != found).any()
    for bad in ([300, 0, 0, 0, 0], [-1, 0, 0, 0, 0]):
        with pytest.raises(ValueError, match="class 0 has"):
            indices(LABELS, np.array(bad))
    with pytest.raises(ValueError, match="labels must be in"):
        indices(LABELS, np.array([1, 1]))


def test_orders_tasks_and_buffers():
    order = class_order(10, 3)
    assert sorted(order.tolist()) == list(range(10))
    assert (order == class_order(10, 3)).all() and (order != class_order(10, 4)).any()
    parts = tasks(10, 5, order=order)
    assert [len(part) for part in parts] == [2] * 5
    assert np.concatenate(parts).tolist() == order.tolist()
    assert [part.tolist() for part in tasks(4, 2)] == [[0, 1], [2, 3]]
    for bad in ((10, 3), (10, 0)):
        with pytest.raises(ValueError, match="equal tasks"):
            tasks(*bad)
    with pytest.raises(ValueError, match="permutation"):
        tasks(4, 2, order=np.array([0, 1, 1, 2]))
    found = replay_buffer(LABELS, [4, 1], 6, seed=2)
    assert np.bincount(LABELS[found], minlength=5).tolist() == [0, 6, 0, 0, 6]
    with pytest.raises(ValueError, match="class 1 has"):
        replay_buffer(LABELS, [1], 10_000)
