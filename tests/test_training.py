"""The training loop: what it records, repeats and refuses."""

from functools import partial

import pytest
import torch

from nclib import losses, models, training

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


def blobs(n=60, classes=3, dim=6):
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % classes
    return 4 * torch.eye(classes, dim)[y] + torch.randn(n, dim, generator=g), y


def network(seed=0):
    torch.manual_seed(seed)
    return models.MLP(6, [16, 8], 3)


def run(model, **options):
    x, y = blobs()
    y = options.pop("y", y)
    given = {"epochs": 8, "batch_size": 25, "optimizer": SGD}
    given["generator"] = torch.Generator().manual_seed(1)
    return training.train(model, x, y, **given | options)


def test_learns_and_records():
    records = run(network(), callback=lambda epoch, model: {"mode": model.training, "e": epoch})
    assert [r["epoch"] for r in records] == list(range(9)) == [r["e"] for r in records]
    assert not any(r["mode"] for r in records)
    assert records[-1]["accuracy"] > 0.95 and records[-1]["loss"] < records[1]["loss"]
    assert records[0]["loss"] != records[0]["loss"]  # NaN: epoch 0 is not trained on


def test_same_generator_same_result():
    a, b = (run(network(), at=[8])[0]["loss"] for _ in range(2))
    assert a == b
    assert run(network(), at=[8], generator=torch.Generator().manual_seed(2))[0]["loss"] != a


def test_every_sample_once_an_epoch_in_even_batches():
    seen = []

    class Spy(models.MLP):
        def forward(self, x, return_features=False):
            if self.training:
                seen.append(len(x))
            return super().forward(x, return_features)

    torch.manual_seed(0)
    run(Spy(6, [8], 3), epochs=1)
    assert sum(seen) == 60 and max(seen) <= 25 and max(seen) - min(seen) <= 1


def test_schedule_penalty_and_frozen_parameters():
    steps = []

    def schedule(optimizer, total):
        steps.append(total)
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / total)

    model = network()
    model.head.weight.requires_grad_(False)
    before = model.head.weight.clone()
    large = partial(run, schedule=schedule, penalty=lambda m, h: 10 * h.square().sum(1).mean())
    large(model)
    assert steps == [8 * 3]
    assert torch.equal(model.head.weight, before)
    plain = network()
    run(plain)
    x, _ = blobs()
    assert training.outputs(model, x)[1].norm() < 0.5 * training.outputs(plain, x)[1].norm()


def test_lbfgs_gets_its_closure():
    newton = partial(torch.optim.LBFGS, lr=0.5, max_iter=5, line_search_fn="strong_wolfe")
    records = run(network(), optimizer=newton, batch_size=60, epochs=10)
    assert records[-1]["loss"] < 0.05


def test_records_are_of_what_was_trained_on():
    """Means over samples, not batches; loss without penalty; a schedule stepped every batch."""
    x, y = blobs()
    for part in (59, 60):
        model, rates = network(), []
        hand, g = network(), torch.Generator().manual_seed(1)

        def watch(batch, rates=rates):
            rates.append(batch.step)

        records = training.train(
            model, x[:part], y[:part], epochs=2, batch_size=25, generator=g, after_step=watch,
            optimizer=partial(torch.optim.SGD, lr=0.2), penalty=lambda m, h: h.square().mean(),
            schedule=lambda opt, total: torch.optim.lr_scheduler.LambdaLR(
                opt, lambda done: 1 - done / total),
        )
        g.manual_seed(1)
        hand.train()
        t = 0
        for epoch in (1, 2):
            value = right = 0.0
            for index in torch.randperm(part, generator=g).tensor_split(3):
                logits, h = hand(x[index], return_features=True)
                loss = torch.nn.functional.cross_entropy(logits, y[index])
                value += loss.item() * len(index) / part
                right += (logits.argmax(1) == y[index]).sum().item() / part
                hand.zero_grad()
                (loss + h.square().mean()).backward()
                with torch.no_grad():
                    for p in hand.parameters():
                        p -= 0.2 * (1 - t / 6) * p.grad
                t += 1
            assert records[epoch]["loss"] == pytest.approx(value, rel=1e-6)
            assert records[epoch]["accuracy"] == pytest.approx(right, rel=1e-12)
        assert rates == list(range(6))
        for p, q in zip(model.parameters(), hand.parameters(), strict=True):
            assert torch.allclose(p, q, atol=1e-5)


def test_lbfgs_records_the_parameters_before_the_step():
    x, y = blobs()
    model, twin = network(), network()
    newton = partial(torch.optim.LBFGS, lr=0.5, max_iter=5, line_search_fn="strong_wolfe")
    (record,) = run(model, optimizer=newton, batch_size=60, epochs=1, at=[1])
    logits = twin.train()(x)
    assert record["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, y).item())
    assert record["accuracy"] == (logits.argmax(1) == y).double().mean().item()


def test_objective_sees_the_batch_and_hooks_change_it():
    (_, y), seen = blobs(), []

    def objective(batch):
        (slope,) = torch.autograd.grad(batch.features.sum(), batch.inputs, create_graph=True)
        assert torch.equal(batch.labels, y[batch.index]) and batch.loss is None
        return losses.cross_entropy(batch) + 0.1 * slope.square().sum(1)

    def stop(batch):
        batch.model.head.weight.grad.zero_()

    def grow(batch):
        seen.append((batch.step, batch.loss.item(), torch.is_grad_enabled()))
        batch.model.head.bias += 1

    model = network()
    before = model.head.weight.detach().clone(), model.head.bias.detach().clone()
    run(model, objective=objective, input_gradients=True, after_backward=stop, after_step=grow,
        epochs=2, optimizer=partial(torch.optim.SGD, lr=1e-6))
    assert torch.equal(model.head.weight, before[0])
    assert torch.allclose(model.head.bias, before[1] + 6, atol=1e-4)
    assert [s for s, *_ in seen] == list(range(6)) and not any(g for *_, g in seen)
    plain = network()
    one = run(plain, epochs=1, at=[1])[0]["loss"]
    assert seen[0][1] > one  # the penalty is in the objective's own value


def test_targets():
    x, _ = blobs()
    slow = partial(torch.optim.SGD, lr=0.02, momentum=0.9)
    records = run(network(), loss=torch.nn.functional.mse_loss, epochs=40, y=x[:, :3],
                  optimizer=slow)
    assert records[-1]["loss"] < 0.2 * records[1]["loss"]
    assert records[-1]["accuracy"] != records[-1]["accuracy"]


def test_float64_stays_float64():
    x, y = blobs()
    seen = []
    model = network().double()
    training.train(model, x.double(), y, epochs=1, batch_size=60, optimizer=SGD,
                   loss=lambda out, t: seen.append(out.dtype) or out.square().mean())
    assert seen == [torch.float64]
    half = network().bfloat16()
    training.train(half, x.bfloat16(), y, epochs=1, batch_size=60, optimizer=SGD,
                   loss=lambda out, t: seen.append(out.dtype) or out.square().mean())
    assert seen[1] == torch.float32


def test_batches_of_ones_own():
    seen, totals = [], []

    def schedule(opt, total):
        totals.append(total)
        return torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 1.0)

    run(network(), batches=lambda epoch: [torch.tensor([epoch, 0, 5]), torch.tensor([7, 8])],
        schedule=schedule, after_step=lambda b: seen.append(b.index.tolist()), epochs=2)
    assert seen == [[1, 0, 5], [7, 8], [2, 0, 5], [7, 8]] and totals == [4]


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("kind", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("dropout", [False, True])
def test_resume_ends_as_if_not_interrupted(tmp_path, kind, dropout):
    optimizer = {
        "sgd": SGD, "adam": partial(torch.optim.Adam, lr=0.01),
        "lbfgs": partial(torch.optim.LBFGS, lr=0.1, max_iter=2),
    }[kind]

    def make():
        model = network()
        if dropout:
            model.features.append(torch.nn.Dropout(0.5))
        return model

    def go(model, stop=None, **options):
        def callback(epoch, model):
            if epoch == stop:
                raise Interrupted
            return {"norm": model.head.weight.norm()}
        return run(model, optimizer=optimizer, callback=callback, epochs=6, at=[0, 2, 5, 6],
                   schedule=lambda opt, n: torch.optim.lr_scheduler.OneCycleLR(
                       opt, 0.1, n, cycle_momentum=False), **options)

    torch.manual_seed(9)
    whole = make()
    torch.manual_seed(9)
    wanted = go(whole)
    path, model = tmp_path / "run.pt", make()
    torch.manual_seed(9)
    with pytest.raises(Interrupted):
        go(model, stop=5, resume=path)
    torch.manual_seed(1)
    fresh = make()
    found = go(fresh, resume=path, generator=torch.Generator().manual_seed(55))
    assert str(found) == str(wanted)
    for p, q in zip(whole.state_dict().values(), fresh.state_dict().values(), strict=True):
        assert torch.equal(p, q)
    done = make()
    assert str(go(done, resume=path)) == str(wanted)
    assert torch.equal(done.head.weight, whole.head.weight)
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]
    with pytest.raises(ValueError, match="another run"):
        run(make(), epochs=7, resume=path)


def test_modes_stay_what_they_were():
    """A normalization that was frozen by hand stays frozen, in training and in between."""
    model = network()
    frozen = model.features[2]
    frozen.eval()
    x, _ = blobs()
    before = frozen.running_mean.clone()
    run(model, epochs=2, callback=lambda epoch, m: {"h": training.outputs(m, x)[1].sum().item()})
    training.outputs(model, x)
    assert torch.equal(frozen.running_mean, before)
    modes = [m.training for m in model.modules()]
    assert modes == [m is not frozen for m in model.modules()]
    model.eval()
    run(model, epochs=1)
    assert not any(m.training for m in model.modules())
    assert not torch.equal(frozen.running_mean, before)


def test_outputs_restores_the_mode():
    model, (x, _) = network(), blobs()
    model.train()
    logits, features = training.outputs(model, x, batch_size=7)
    assert model.training and logits.shape == (60, 3) and features.shape == (60, 8)
    assert not logits.requires_grad
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model(x), logits, atol=1e-6)


def test_divergence_is_named():
    with pytest.raises(FloatingPointError, match="in epoch"):
        run(network(), optimizer=partial(torch.optim.SGD, lr=1e20))


@pytest.mark.parametrize("options", [{"epochs": 0}, {"batch_size": 0}])
def test_bad_sizes(options):
    with pytest.raises(ValueError, match="must be"):
        run(network(), **options)


def test_labels_must_fit():
    x, y = blobs()
    with pytest.raises(ValueError, match="60 samples"):
        training.train(network(), x, y[:5], epochs=1, batch_size=5, optimizer=SGD)


def test_parallel_does_not_change_results():
    def final(model):
        return run(model, at=[8])[0]["loss"]

    results = [training.parallel(final, [network(s) for s in range(3)], workers=w) for w in (1, 3)]
    assert results[0] == results[1] and len(set(results[0])) == 3
    threads = torch.get_num_threads()
    training.parallel(lambda x: x, range(3), workers=2)
    assert torch.get_num_threads() == threads
    with pytest.raises(ZeroDivisionError):
        training.parallel(lambda x: 1 / x, [1, 0, 2], workers=2)
