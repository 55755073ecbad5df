"""The training loop: what it records, repeats and refuses."""

from functools import partial

import pytest
import torch

from nclib import models, training

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
