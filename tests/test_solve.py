"""The solver reaches where others stall; descent is descent."""

import pytest
import scipy.optimize
import torch

from nclib import solve, ufm

F64 = torch.float64


def problem(seed, B=1, K=4, n=5, d=6):
    g = torch.Generator().manual_seed(seed)
    start = ufm.init(B, K, n, d, scale=0.5, generator=g)
    return start, lambda W, H, b: ufm.ce_loss(W, H, b, 5e-3, 5e-3, 5e-3)


def flat(start, loss):
    """The same problem of one vector, with its gradient."""
    sizes = [v.numel() for v in start.values()]

    def value(x):
        parts = {k: p.reshape(v.shape) for (k, v), p in
                 zip(start.items(), x.split(sizes), strict=True)}
        return loss(**parts)[0]

    return torch.cat([v.flatten() for v in start.values()]), value


def gradient(value, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(value(x), x)[0]


def test_reaches_1e_10_where_others_stall():
    ours, torchs, scipys = [], [], []
    for seed in range(5):
        start, loss = problem(seed)
        found = solve.minimize(loss, start, tol=1e-10, max_iter=3000)
        assert found.converged.all()
        ours.append(float(found.grad_norm.max()))
        x0, value = flat(start, loss)

        def both(x, value=value):
            x = torch.tensor(x)
            return float(value(x)), gradient(value, x).numpy()

        result = scipy.optimize.minimize(
            both, x0.numpy(), jac=True, method="L-BFGS-B",
            options={"gtol": 0, "ftol": 0, "maxiter": 3000, "maxfun": 10_000, "maxcor": 8})
        scipys.append(float(gradient(value, torch.tensor(result.x)).norm()))
        x = x0.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [x], max_iter=3000, history_size=8, tolerance_grad=0, tolerance_change=0,
            line_search_fn="strong_wolfe")

        def closure(x=x, value=value, optimizer=optimizer):
            optimizer.zero_grad()
            f = value(x)
            f.backward()
            return f

        optimizer.step(closure)
        torchs.append(float(gradient(value, x.detach()).norm()))
    assert max(ours) < 1e-10
    assert max(scipys) > 1e-9 and max(torchs) > 1e-9


def test_a_batch_is_its_members_and_the_start_is_left_alone():
    start, loss = problem(0, B=4)
    before = {k: v.clone() for k, v in start.items()}
    whole = solve.minimize(loss, start)
    assert all(torch.equal(before[k], start[k]) for k in start)
    for i in range(4):
        one = solve.minimize(loss, {k: v[i : i + 1] for k, v in start.items()})
        torch.testing.assert_close(one.loss[0], whole.loss[i], rtol=0, atol=1e-12)


def test_refuses():
    start, loss = problem(0, B=2)
    with pytest.raises(ValueError, match="leading axes"):
        solve.minimize(loss, start | {"b": torch.zeros(3, 4, dtype=F64)})
    with pytest.raises(ValueError, match=r"loss must have shape \(2,\)"):
        solve.minimize(lambda **x: loss(**x).sum(), start)
    with pytest.raises(ValueError, match="not finite"):
        solve.minimize(lambda **x: loss(**x) / 0, start)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_descent_is_that_of_torch(momentum):
    start, loss = problem(1, B=2)
    rate = torch.tensor([0.5, 0.1], dtype=F64)
    path = solve.descend(
        loss, start, rate=rate, steps=20, momentum=momentum, record=[5], keep=[0, 7])
    assert path.steps == [0, 5, 20] and path.loss.shape == (3, 2) and set(path.kept) == {0, 7}
    assert all(torch.equal(path.kept[0][k], start[k]) for k in start)
    for i in range(2):
        x = {k: v[i : i + 1].clone().requires_grad_() for k, v in start.items()}
        optimizer = torch.optim.SGD(x.values(), lr=float(rate[i]), momentum=momentum)
        losses = []
        for step in range(21):
            optimizer.zero_grad()
            f = loss(**x).sum()
            losses.append(f.item())
            if step == 7:
                torch.testing.assert_close(path.kept[7]["W"][i], x["W"][0].detach())
            f.backward()
            if step < 20:
                optimizer.step()
        assert path.loss[:, i].tolist() == pytest.approx([losses[k] for k in (0, 5, 20)])
        torch.testing.assert_close(path.x["H"][i], x["H"][0].detach())


def test_descent_is_that_of_the_deep_model():
    g = torch.Generator().manual_seed(0)
    start = ufm.deep_init(3, 4, 2, 6, 3, generator=g)
    decay = {"lam_w": 1e-3, "lam_h": 2e-3}
    ours = ufm.deep_descend(start, rate=0.1, steps=30, **decay)
    plain = solve.descend(
        lambda **x: ufm.deep_loss(**x, **decay), start, rate=0.1, steps=30)
    torch.testing.assert_close(ours.loss, plain.loss)
    torch.testing.assert_close(ours.x["W2"], plain.x["W2"])


def test_descent_refuses():
    start, loss = problem(0, B=2)
    with pytest.raises(ValueError, match="steps"):
        solve.descend(loss, start, rate=1, steps=-1)
    with pytest.raises(ValueError, match="loss must have shape"):
        solve.descend(lambda **x: loss(**x).sum(), start, rate=1, steps=1)
    with pytest.raises(FloatingPointError, match="step 50"):
        solve.descend(lambda x: x.pow(4).sum(1), {"x": torch.ones(2, 1)}, rate=9.0, steps=50)
