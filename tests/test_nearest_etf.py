"""The nearest simplex ETF: against an independent optimizer, a dense derivative, and itself."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nclib import polar
from nclib.frames import helmert, simplex_etf
from nclib.polar import nearest_simplex_etf, polar_factor

F64 = torch.float64


def normal(*shape, seed=0, dtype=F64):
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def centering(K):
    return torch.eye(K, dtype=F64) - 1 / K


def unit_means(K, d, seed):
    """Centered class means (d, K) of Frobenius norm one."""
    Y = normal(d, K, seed=seed) @ centering(K)
    return Y / Y.norm()


def objective(U, Y, prox, delta):
    """The inner problem of Markou et al. (2024) on U (d, K) with orthonormal columns."""
    K = Y.shape[1]
    fit = (Y - U @ centering(K) / math.sqrt(K - 1)).square().sum()
    return fit + delta / 2 * (U - prox).square().sum()


def declarative_gradient(Y, prox, delta, G, U):
    """Dense rule of deep declarative networks: all constraints, the full Hessian, no spectra."""
    d, K = U.shape
    M, root = centering(K), math.sqrt(K - 1)
    slope = 2 / (K - 1) * U @ M - 2 / root * Y @ M + delta * (U - prox)
    sym = (U.T @ slope + slope.T @ U) / 2
    H = torch.kron(torch.eye(d, dtype=F64), 2 / (K - 1) * M + delta * torch.eye(K, dtype=F64) - sym)
    rows = []
    for i in range(K):
        for j in range(i, K):
            E = torch.zeros(d, K, dtype=F64)
            E[:, i] += U[:, j]
            E[:, j] += U[:, i]
            rows.append(E.flatten())
    A = torch.stack(rows)
    B = -2 / root * torch.kron(torch.eye(d, dtype=F64), M)
    HA, HB = torch.linalg.solve(H, A.T), torch.linalg.solve(H, B)
    D = HA @ torch.linalg.solve(A @ HA, A @ HB) - HB  # dU/dY
    return (G.flatten() @ D).view(d, K)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(2, 8), st.integers(0, 6), st.integers(0, 10_000), st.sampled_from(["svd", "eigh"])
)
def test_result_is_a_simplex_etf_and_scale_free(K, extra, seed, method):
    d = K - 1 + extra
    means = normal(K, d, seed=seed)
    frame = nearest_simplex_etf(means, method=method)
    wanted = torch.full((K, K), -1 / (K - 1), dtype=F64).fill_diagonal_(1)
    torch.testing.assert_close(frame @ frame.T, wanted, rtol=0, atol=1e-8)
    moved = nearest_simplex_etf(3 * means + normal(d, seed=seed + 1), method=method)
    torch.testing.assert_close(moved, frame, rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 7), st.integers(0, 5), st.integers(0, 10_000))
def test_no_other_frame_is_nearer(K, extra, seed):
    d = K - 1 + extra
    means = normal(K, d, seed=seed)
    means = means - means.mean(0)
    means = means / means.norm()

    def distance(frame):
        return (means - frame / math.sqrt(K)).square().sum()

    best = distance(nearest_simplex_etf(means))
    generator = torch.Generator().manual_seed(seed)
    others = [simplex_etf(K, d, dtype=F64, generator=generator) for _ in range(20)]
    turned = torch.matrix_exp(0.01 * (lambda A: A - A.T)(normal(d, d, seed=seed)))
    others.append(nearest_simplex_etf(means) @ turned)
    assert all(distance(frame) >= best - 1e-12 for frame in others)
    nuclear = torch.linalg.matrix_norm(means, "nuc")
    assert abs(best - (2 - 2 / math.sqrt(K - 1) * nuclear)) < 1e-12


def test_equivariant_under_rotation_and_relabeling():
    means, turn = normal(5, 7), torch.linalg.qr(normal(7, 7, seed=1)).Q
    order = torch.tensor([3, 0, 4, 2, 1])
    frame = nearest_simplex_etf(means)
    torch.testing.assert_close(nearest_simplex_etf(means @ turn), frame @ turn)
    torch.testing.assert_close(nearest_simplex_etf(means[order]), frame[order])


@pytest.mark.parametrize(("d", "K"), [(6, 4), (12, 5), (20, 10)])
def test_helmert_form_is_the_stiefel_form(d, K):
    Y = unit_means(K, d, seed=d)
    U = polar_factor(2 / math.sqrt(K - 1) * Y)
    frame = math.sqrt(K / (K - 1)) * (U @ centering(K)).T
    torch.testing.assert_close(nearest_simplex_etf(Y.T), frame, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("d", "K", "delta"), [(5, 3, 1e-3), (6, 4, 0.1), (8, 5, 1e-3)])
def test_backward_is_the_declarative_rule(d, K, delta):
    Y, G = unit_means(K, d, seed=d), normal(d, K, seed=1)
    prox = torch.linalg.qr(normal(d, K, seed=2)).Q
    start = Y.clone().requires_grad_()
    U = polar_factor(2 / math.sqrt(K - 1) * start @ centering(K) + delta * prox)
    (ours,) = torch.autograd.grad(U, start, G)
    dense = declarative_gradient(Y, prox, delta, G, U.detach())
    torch.testing.assert_close(ours, dense, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", ["svd", "eigh"])
@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (3, 4, 4), (2, 3, 2, 5)])
def test_gradcheck_of_the_polar_factor(shape, method):
    A = normal(*shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: polar_factor(a, method=method), A)


@pytest.mark.parametrize("method", ["svd", "eigh"])
@pytest.mark.parametrize("options", [{}, {"delta": 0.1}, {"delta": 1e-3}])
def test_gradcheck_of_the_nearest_frame(method, options):
    if options:
        prox = simplex_etf(5, 6, dtype=F64, generator=torch.Generator().manual_seed(0))
        options = options | {"prox": prox}
    means = normal(2, 5, 6).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda m: nearest_simplex_etf(m, method=method, **options), means
    )


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("method", ["svd", "eigh"])
@pytest.mark.parametrize(("K", "d"), [(2, 1), (10, 9), (50, 64), (200, 256)])
def test_finite_at_exact_collapse(K, d, method, dtype):
    frame = simplex_etf(K, d, dtype=dtype, generator=torch.Generator().manual_seed(K))
    means = frame.clone().requires_grad_()
    found = nearest_simplex_etf(means, method=method)
    small = 50 * torch.finfo(dtype).eps * K
    torch.testing.assert_close(found.detach(), frame, rtol=0, atol=small)
    (gradient,) = torch.autograd.grad((found * normal(K, d, dtype=dtype)).sum(), means)
    assert gradient.isfinite().all()
    assert abs((gradient * frame).sum()) <= small * gradient.norm() * frame.norm()


def test_svd_autograd_is_not_right_at_collapse():
    frame = helmert(8, dtype=F64).T @ torch.eye(7, 12, dtype=F64)
    G, B = normal(8, 12), helmert(8, dtype=F64)

    def naive(means):
        P, _, Qt = torch.linalg.svd(B @ means, full_matrices=False)
        return math.sqrt(8 / 7) * B.T @ (P @ Qt)

    def gradient(function):
        means = frame.clone().requires_grad_()
        return torch.autograd.grad(function(means), means, G)[0]

    # The exact gradient where all singular values are one: no singular vectors are needed.
    A, H = B @ frame, math.sqrt(8 / 7) * B @ G
    exact = B.T @ ((H @ A.T - A @ H.T) / 2 @ A + H @ (torch.eye(12, dtype=F64) - A.T @ A))
    torch.testing.assert_close(gradient(nearest_simplex_etf), exact, rtol=0, atol=1e-12)
    assert not torch.allclose(gradient(naive), exact, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_where_the_svd_gives_up_the_eigensolver_takes_over(monkeypatch, dtype):
    means = normal(3, 10, 16, dtype=dtype)
    wanted, calls = nearest_simplex_etf(means), []
    true_svd = torch.linalg.svd

    def stubborn(A, **options):
        calls.append(A.shape)
        if A.dim() > 2 or len(calls) == 3:  # the batch, and the second of its three problems
            raise torch.linalg.LinAlgError("did not converge")
        return true_svd(A, **options)

    monkeypatch.setattr(torch.linalg, "svd", stubborn)
    start = means.clone().requires_grad_()
    found = nearest_simplex_etf(start)
    assert len(calls) == 4
    torch.testing.assert_close(found.detach(), wanted, rtol=0, atol=2e-6)
    assert torch.autograd.grad(found[..., 0].sum(), start)[0].isfinite().all()


def test_float32_is_as_good_as_its_rounding():
    means = normal(100, 512)
    wanted = nearest_simplex_etf(means)
    for method in ("svd", "eigh"):
        found = nearest_simplex_etf(means.float(), method=method)
        assert found.dtype == torch.float32
        assert (found - wanted).abs().max() < 2e-6


@pytest.mark.parametrize("drop", [1, 2])
def test_dependent_means(drop):
    means = normal(6, 9)
    means[:drop] = means[-1]
    start = means.clone().requires_grad_()
    frame = nearest_simplex_etf(start)
    wanted = torch.full((6, 6), -1 / 5, dtype=F64).fill_diagonal_(1)
    torch.testing.assert_close(frame @ frame.T, wanted, rtol=0, atol=1e-12)
    assert torch.autograd.grad(frame.square()[:, 0].sum(), start)[0].isfinite().all()
    prox = simplex_etf(6, 9, dtype=F64, generator=torch.Generator().manual_seed(1))
    kept = nearest_simplex_etf(means, prox=prox)
    moved = nearest_simplex_etf(means + 1e-9 * normal(6, 9, seed=5), prox=prox)
    assert (kept - moved).norm() < 1e-4


def test_proximal_term():
    means, K = normal(5, 8), 5
    prox = simplex_etf(K, 8, dtype=F64, generator=torch.Generator().manual_seed(0))
    free = nearest_simplex_etf(means)
    torch.testing.assert_close(nearest_simplex_etf(means, prox=prox, delta=0.0), free)
    far = nearest_simplex_etf(means, prox=prox, delta=1e6)
    torch.testing.assert_close(far, prox, rtol=0, atol=1e-5)
    shift = [(nearest_simplex_etf(means, prox=prox, delta=t) - free).norm() for t in (1e-4, 1e-3)]
    assert abs(math.log10(shift[1] / shift[0]) - 1) < 0.05
    # It is the minimizer of the penalized objective over the isometries of the Helmert form.
    B = helmert(K, dtype=F64)
    Y = (means - means.mean(0)) / (means - means.mean(0)).norm()
    old, delta = math.sqrt((K - 1) / K) * B @ prox, 0.1

    def value(U):
        fit = (Y - B.T @ U / math.sqrt(K - 1)).square().sum()
        return fit + delta / 2 * (U - old).square().sum()

    U = math.sqrt((K - 1) / K) * B @ nearest_simplex_etf(means, prox=prox, delta=delta)
    others = torch.linalg.qr(U.T + 0.05 * normal(200, 8, K - 1)).Q
    signs = (others * U.T).sum(1, keepdim=True).sign()
    assert all(value(V.T) > value(U) for V in others * signs)


def penalized_argmin(means, prox, delta, starts=4):
    """Frame that minimizes the documented objective: quasi-Newton steps, no spectra, and U held
    orthonormal by a QR decomposition. The objective has no local minima besides the global one."""
    K, d = means.shape
    B, Y = helmert(K, dtype=F64), means - means.mean(0)
    Y, old = Y / Y.norm(), math.sqrt((K - 1) / K) * B @ prox
    found = []
    for seed in range(starts):
        V = normal(d, K - 1, seed=seed).requires_grad_()
        solver = torch.optim.LBFGS(
            [V],
            max_iter=500,
            line_search_fn="strong_wolfe",
            tolerance_grad=1e-13,
            tolerance_change=1e-18,
        )

        def isometry(V=V):
            Q, R = torch.linalg.qr(V)
            return (Q * R.diagonal().sign()).T  # with these signs it is continuous in V

        def value(isometry=isometry):
            U = isometry()
            fit = (Y - B.T @ U / math.sqrt(K - 1)).square().sum()
            return fit + delta / 2 * (U - old).square().sum()

        def closure(V=V, solver=solver, value=value):
            solver.zero_grad()
            loss = value()
            loss.backward()
            return loss

        solver.step(closure)
        found.append((value().item(), isometry().detach()))
    lowest = min(found, key=lambda pair: pair[0])[1]
    return math.sqrt(K / (K - 1)) * B.T @ lowest


@pytest.mark.parametrize("method", ["svd", "eigh"])
@pytest.mark.parametrize(("K", "d", "delta"), [(3, 4, 0.1), (5, 8, 0.1), (5, 8, 1.0)])
def test_weight_of_the_proximal_term(K, d, delta, method):
    means = normal(K, d, seed=K)
    prox = simplex_etf(K, d, dtype=F64, generator=torch.Generator().manual_seed(1))
    best = penalized_argmin(means, prox, delta)

    def off(weight):
        frame = nearest_simplex_etf(means, prox=prox, delta=weight, method=method)
        return (frame - best).norm()

    assert off(delta) < 1e-6
    assert off(delta / 2) > 0.01 and off(2 * delta) > 0.01  # so the comparison sees the weight


@pytest.mark.parametrize("method", ["svd", "eigh"])
def test_proximal_weight_does_not_depend_on_the_scale_of_the_means(method):
    prox = simplex_etf(5, 8, dtype=F64, generator=torch.Generator().manual_seed(1))
    means = normal(5, 8)
    frame = nearest_simplex_etf(means, prox=prox, delta=0.1, method=method)
    for scale in (1e-3, 5.0, 1e3):
        moved = scale * means + normal(8, seed=2)
        found = nearest_simplex_etf(moved, prox=prox, delta=0.1, method=method)
        torch.testing.assert_close(found, frame, rtol=0, atol=1e-9)
    # Each problem of a batch has its own scale.
    both = torch.stack([means, 40 * normal(5, 8, seed=3)])
    alone = nearest_simplex_etf(both[1], prox=prox, delta=0.1, method=method)
    found = nearest_simplex_etf(both, prox=prox, delta=0.1, method=method)
    torch.testing.assert_close(found, torch.stack([frame, alone]), rtol=0, atol=1e-9)


def test_no_gradient_into_the_proximal_frame():
    prox = simplex_etf(4, 5, dtype=F64).requires_grad_()
    means = normal(4, 5).requires_grad_()
    nearest_simplex_etf(means, prox=prox, delta=0.1)[0, 0].backward()
    assert prox.grad is None and means.grad is not None


def test_batches_are_independent():
    means = normal(2, 3, 5, 7)
    whole = nearest_simplex_etf(means)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(whole[i, j], nearest_simplex_etf(means[i, j]))


def test_backward_keeps_little():
    kept, A = [], normal(99, 512).requires_grad_()
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
    with hooks:
        polar_factor(A)
    new = sum(t.numel() for t in kept if t.data_ptr() != A.data_ptr())
    assert new == 99 * 512 + 99**2 + 99


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (2, 3, 5)])
def test_second_derivatives(shape):
    A = normal(*shape).requires_grad_()
    assert torch.autograd.gradcheck(polar_factor, A)
    assert torch.autograd.gradgradcheck(polar_factor, A)
    if shape[-2] <= shape[-1]:
        assert torch.autograd.gradgradcheck(nearest_simplex_etf, A)


@pytest.mark.parametrize("method", ["svd", "eigh"])
def test_torch_func(method):
    A, G = normal(6, 3, 5), normal(3, 5)

    def value(a):
        return (nearest_simplex_etf(a, method=method) * G).sum()

    def each(f, x):
        return torch.stack([f(a) for a in x])

    one = A.clone().requires_grad_()
    (expected,) = torch.autograd.grad(each(value, one).sum(), one)
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(torch.func.vmap(value)(A), each(value, A), **close)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(value))(A), expected, **close)
    torch.testing.assert_close(each(torch.func.grad(value), A), expected, **close)
    jac = torch.func.jacrev(lambda a: polar_factor(a, method=method))(A[0])
    auto = torch.autograd.functional.jacobian(lambda a: polar_factor(a, method=method), A[0])
    torch.testing.assert_close(jac, auto, **close)
    hessian = torch.func.jacrev(torch.func.grad(value))(A[0])
    auto = torch.autograd.functional.hessian(value, A[0])
    torch.testing.assert_close(hessian, auto, **close)
    with pytest.raises(ValueError, match="all equal"):
        torch.func.vmap(value)(torch.ones(2, 3, 5, dtype=F64))


def test_autocast_is_off_inside():
    means, A = normal(4, 9).float(), normal(4, 9).float().requires_grad_()
    outside = nearest_simplex_etf(means)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nearest_simplex_etf(means), outside)
        (inside,) = torch.autograd.grad(polar_factor(A).square()[0, 0], A)
    (plain,) = torch.autograd.grad(polar_factor(A).square()[0, 0], A)
    assert torch.equal(inside, plain)


@pytest.mark.parametrize("dtype, powers", [
    (torch.float32, (-30, -10, 10, 30)), (F64, (-150, -50, 50, 150)),
])
@pytest.mark.parametrize("method", ["svd", "eigh"])
def test_scale_does_not_matter(dtype, powers, method):
    means = normal(4, 9).to(dtype)
    expected = nearest_simplex_etf(means, method=method)
    for power in powers:
        found = nearest_simplex_etf(means * 10.0**power, method=method)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("case", ["repeated", "rank one", "ill-conditioned", "a batch"])
def test_eigh_gives_a_frame_or_hands_over(dtype, case):
    g = torch.Generator().manual_seed(0)
    means = torch.randn(5, 8, generator=g, dtype=F64)
    if case == "repeated":
        means[3] = means[4] = means[2]
    elif case == "rank one":
        means = torch.arange(5, dtype=F64)[:, None] * means[0]
    elif case == "ill-conditioned":
        means = means[:1] + 1e-5 * means * 10.0 ** -torch.arange(0, 10, 2, dtype=F64)[:, None]
    else:
        bad = means.clone()
        bad[3] = bad[4] = bad[2]
        means = torch.stack([means, bad, means + 1])
    found = nearest_simplex_etf(means.to(dtype), method="eigh").double()
    gram = (5 * torch.eye(5, dtype=F64) - 1) / 4
    assert (found @ found.mT - gram).abs().max() < (2e-5 if dtype == torch.float32 else 1e-11)
    if case == "a batch":
        exact = nearest_simplex_etf(means.to(dtype)).double()
        assert (found - exact)[[0, 2]].abs().max() < 1e-4



def test_errors():
    with pytest.raises(ValueError, match="d >= 4, got d=3"):
        nearest_simplex_etf(normal(5, 3))
    with pytest.raises(ValueError, match="K=1"):
        nearest_simplex_etf(normal(1, 3))
    with pytest.raises(ValueError, match="shape"):
        nearest_simplex_etf(normal(5))
    with pytest.raises(ValueError, match="all equal"):
        nearest_simplex_etf(torch.full((3, 4), 0.1, dtype=F64))
    with pytest.raises(ValueError, match="prox has shape"):
        nearest_simplex_etf(normal(3, 4), prox=normal(3, 5))
    with pytest.raises(ValueError, match="prox has shape"):
        nearest_simplex_etf(normal(3, 4), prox=normal(3, 4).float())
    with pytest.raises(ValueError, match="delta"):
        nearest_simplex_etf(normal(3, 4), prox=normal(3, 4), delta=-1.0)
    with pytest.raises(ValueError, match="finite"):
        nearest_simplex_etf(torch.full((3, 4), math.nan, dtype=F64))
    with pytest.raises(ValueError, match="float16"):
        polar_factor(torch.zeros(2, 3, dtype=torch.float16))
    with pytest.raises(ValueError, match="method"):
        polar_factor(normal(2, 3), method="qr")
    with pytest.raises(ValueError, match="shape"):
        polar_factor(normal(3))


@pytest.mark.parametrize(("d", "K", "delta"), [(10, 5, 0.0), (10, 5, 1e-3), (64, 10, 1e-3)])
def test_against_riemannian_trust_regions(d, K, delta):
    """pymanopt's solver, which the paper uses, finds the same frame."""
    pymanopt = pytest.importorskip("pymanopt")
    Y, prox = unit_means(K, d, seed=d).numpy(), torch.linalg.qr(normal(d, K, seed=3)).Q.numpy()
    M, root = centering(K).numpy(), math.sqrt(K - 1)
    manifold = pymanopt.manifolds.Stiefel(d, K)

    @pymanopt.function.numpy(manifold)
    def cost(U):
        return ((Y - U @ M / root) ** 2).sum() + delta / 2 * ((U - prox) ** 2).sum()

    @pymanopt.function.numpy(manifold)
    def gradient(U):
        return 2 / (K - 1) * U @ M - 2 / root * Y @ M + delta * (U - prox)

    @pymanopt.function.numpy(manifold)
    def hessian(U, V):
        return 2 / (K - 1) * V @ M + delta * V

    problem = pymanopt.Problem(
        manifold, cost, euclidean_gradient=gradient, euclidean_hessian=hessian
    )
    solver = pymanopt.optimizers.TrustRegions(min_gradient_norm=1e-9, verbosity=0)
    start = torch.eye(d, K, dtype=F64).numpy()
    theirs = torch.from_numpy(solver.run(problem, initial_point=start).point)
    Yt, pt = torch.from_numpy(Y), torch.from_numpy(prox)
    ours = polar_factor(2 / root * Yt @ centering(K) + delta * pt)
    assert abs(objective(theirs, Yt, pt, delta) - objective(ours, Yt, pt, delta)) < 1e-10
    assert ((theirs - ours) @ centering(K)).norm() < 1e-6


def test_public_names():
    assert {"nearest_simplex_etf", "polar_factor"} <= set(polar.__all__)


def test_benchmark_runs_and_its_methods_agree(capsys):
    path = Path(__file__).parent.parent / "benchmarks" / "nearest_etf.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_nearest_etf", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    section = benchmark.main(["--quick"])
    assert section in capsys.readouterr().out
    chapter = benchmark.chapter_functions()
    ours, computed, made = benchmark.memory(32, 8, benchmark.QUICK, chapter)
    assert computed == made and ours < computed
