"""Models: shapes, parameter counts of the literature, stored forward passes, heads."""

import pytest
import torch
from torch import nn

from nclib import ensembles, models


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


def settled(net):
    """The network in float64 with parameters and statistics from sines, without a generator."""
    values = [v for _, v in sorted(net.double().state_dict().items()) if v.is_floating_point()]
    names = [n for n, v in sorted(net.state_dict().items()) if v.is_floating_point()]
    for k, (name, v) in enumerate(zip(names, values, strict=True), 1):
        wave = torch.arange(v.numel(), dtype=v.dtype) * (1 + k / 7) + k
        wave = wave.sin().view(v.shape)
        if name.endswith("var"):
            v.copy_(1.1 + wave)
        elif v.dim() == 1:
            v.copy_(0.5 + wave)
        else:
            v.copy_(1.4 * (2.0 / v[0].numel()) ** 0.5 * wave)
    return net.eval()


@pytest.mark.parametrize(
    ("make", "shape", "count", "stored"),
    [
        (lambda: models.MLP(12, [8, 5], 3), (4, 12),
         180, [0.036702531, 0.048218749, 3.7972041]),
        (lambda: models.MLP(12, [8, 5], 3, norm=False), (4, 12),
         167, [-0.61509302, 0.52165834, 3.0071822]),
        (lambda: models.MLP(12, [8, 5], 3, signed=True), (4, 12),
         170, [5.2708355, -3.8001651, 4.9666158]),
        (lambda: models.ConvNet(2, 9, [3, 4], [6, 5], 3), (4, 2, 9, 9),
         462, [5.0468433, -2.7583551, 8.5276201]),
        (lambda: models.ConvNet(1, (7, 14), [3, 4], [5], 3, norm=False), (4, 1, 7, 14),
         325, [1.4166179, -0.87189688, 4.3544407]),
        (lambda: models.ResNet(1, 3, width=4, feature_dim=5), (4, 1, 16, 16),
         36_578, [8.5633916, 7.2119933, 15.155854]),
        (lambda: models.ResNet(1, 3, depth=20, width=4), (4, 1, 16, 16),
         17_343, [-6.6706068, -6.1926233, 209.44288]),
        (lambda: models.ResNet(1, 3, depth=50, stem="imagenet", width=4), (4, 1, 33, 33),
         95_487, [87.411693, 76.00839, 483.05812]),
    ],
)
@torch.no_grad()
def test_stored_forward_pass(make, shape, count, stored):
    """Another layer, stride, skip, order or activation gives other numbers; so for ensembles."""
    net = settled(make())
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).mul(1.7).cos().view(shape)
    logits, h = net(x, return_features=True)
    assert models.count_parameters(net) == count
    assert [logits[0, 0].item(), logits[3, 2].item(), h.norm().item()] == pytest.approx(
        stored, rel=1e-6)
    nets = ensembles.Ensemble([make().double(), net]).eval()
    assert torch.allclose(nets(x[None])[1], logits) and not torch.allclose(nets(x[None])[0], logits)
    assert models.count_parameters(nets) == 2 * count
