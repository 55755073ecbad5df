"""Losses of an objective, against their definitions."""

import pytest
import torch
from torch.nn import functional as F

from nclib import frames, losses


def batch_of(outputs, labels, features=None):
    return losses.Batch(0, None, torch.arange(labels.shape[-1]), None, labels, outputs, features)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_logit_adjustment_is_cross_entropy_with_the_prior():
    counts, labels = torch.tensor([60, 30, 10]), torch.arange(12) % 3
    z = draw(12, 3)
    found = losses.logit_adjusted(counts, 1.5)(batch_of(z, labels))
    prior = torch.tensor([0.6, 0.3, 0.1])
    weights = prior**1.5 * z.exp()
    wanted = -(weights.gather(1, labels[:, None])[:, 0] / weights.sum(1)).log()
    assert torch.allclose(found, wanted, atol=1e-6)
    plain = F.cross_entropy(z, labels, reduction="none")
    assert torch.allclose(losses.logit_adjusted(counts, 0.0)(batch_of(z, labels)), plain)
    even = losses.logit_adjusted(torch.ones(3))(batch_of(z, labels))
    assert torch.allclose(even, plain, atol=1e-6)
    assert not torch.allclose(found, plain, atol=0.1)


def test_members_have_their_own_counts_and_strength():
    counts, tau = torch.tensor([[60, 30, 10], [1, 1, 8]]), torch.tensor([1.0, 0.5])
    z, labels = draw(2, 12, 3), torch.stack([torch.arange(12) % 3] * 2)
    found = losses.logit_adjusted(counts, tau)(batch_of(z, labels))
    for i in range(2):
        alone = losses.logit_adjusted(counts[i], float(tau[i]))(batch_of(z[i], labels[i]))
        assert torch.allclose(found[i], alone, atol=1e-6)


def test_its_optimum_is_balanced():
    """Free logits of one point seen in every class: the adjusted loss is least at equal ones."""
    counts = torch.tensor([70.0, 20.0, 10.0])
    z = torch.zeros(3, requires_grad=True)
    labels = torch.repeat_interleave(torch.arange(3), counts.int())
    losses.logit_adjusted(counts)(batch_of(z.expand(100, 3), labels)).mean().backward()
    assert z.grad.abs().max() < 1e-6


@pytest.mark.parametrize("counts", [[3, 0], [3.0, float("nan")], [-1, 2]])
def test_a_class_without_samples_is_refused(counts):
    with pytest.raises(ValueError, match="at least one sample"):
        losses.logit_adjusted(torch.tensor(counts))


def test_dot_regression():
    frame = frames.simplex_etf(4, 6)
    labels = torch.arange(20) % 4
    h = draw(20, 6)
    found = losses.dot_regression(frame)(batch_of(None, labels, h))
    wanted = (F.cosine_similarity(h, frame[labels]) - 1).square() / 2
    assert torch.allclose(found, wanted, atol=1e-6)
    assert losses.dot_regression(frame)(batch_of(None, labels, 7 * frame[labels])).max() < 1e-12
    both = losses.dot_regression(torch.stack([frame, -frame]))(
        batch_of(None, labels.expand(2, -1), h.expand(2, -1, -1)))
    assert torch.allclose(both[0], found) and torch.allclose(
        both[1], (F.cosine_similarity(h, frame[labels]) + 1).square() / 2, atol=1e-6)
    with pytest.raises(ValueError, match="length one"):
        losses.dot_regression(2 * frame)
