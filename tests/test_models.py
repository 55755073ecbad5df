"""Models: shapes, parameter counts of the literature, heads."""

import pytest
import torch
from torch import nn

from nclib import models


@pytest.mark.parametrize(
    ("depth", "stem", "full", "narrow"),
    [
        (18, "imagenet", 11_181_642, 8_867_542),
        (18, "cifar", 11_173_962, 8_859_862),
        (50, "imagenet", 23_528_522, 22_481_110),
    ],
)
def test_resnet_parameter_counts(depth, stem, full, narrow):
    """The counts of the standard networks with ten classes, and with ten features."""
    assert models.count_parameters(models.ResNet(3, 10, depth=depth, stem=stem)) == full
    net = models.ResNet(3, 10, depth=depth, stem=stem, feature_dim=10)
    assert models.count_parameters(net) == narrow


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda **k: models.MLP(12, [8, 5], 3, **k), (4, 1, 3, 4)),
        (lambda **k: models.ConvNet(2, 9, [3, 4], [6, 5], 3, **k), (4, 2, 9, 9)),
        (lambda **k: models.ResNet(1, 3, width=4, feature_dim=5, **k), (4, 1, 16, 16)),
        (lambda **k: models.ResNet(1, 3, depth=50, stem="imagenet", width=2, feature_dim=5, **k),
         (4, 1, 33, 33)),
    ],
)
def test_features_and_heads(make, shape):
    x = torch.randn(shape)
    net = make()
    logits, features = net(x, return_features=True)
    assert features.shape == (4, 5) == (4, net.feature_dim) and logits.shape == (4, 3)
    assert (features >= 0).all()
    net.eval()
    assert torch.equal(net(x), net.head(net.features(x)))
    head = nn.Linear(5, 3, bias=False)
    head.weight.requires_grad_(False)
    net = make(head=head)
    assert net.head is head
    frozen = models.count_parameters(net) - models.count_parameters(net, trainable_only=True)
    assert frozen == 15


def test_signed_features():
    net = models.ConvNet(1, 8, [4], [6], 3, signed=True)
    assert (net(torch.randn(16, 1, 8, 8), return_features=True)[1] < 0).any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.MLP(3, [], 2),
        lambda: models.ConvNet(1, 8, [], [4], 2),
        lambda: models.ConvNet(1, 8, [4], [], 2),
        lambda: models.ResNet(1, 2, depth=34),
        lambda: models.ResNet(1, 2, stem="none"),
    ],
)
def test_bad_sizes(make):
    with pytest.raises(ValueError, match=r"needs at least|must be"):
        make()
