"""Small classifiers that show their features.

Every model maps images to features with ``model.features(x)`` and features to logits with
``model.head``; ``model(x)`` returns logits, ``model(x, return_features=True)`` both. The head can
be any module that takes ``(N, feature_dim)``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """A backbone and a linear head; the base of the models below.

    Args:
        backbone: module from inputs to ``(N, feature_dim)`` features.
        feature_dim: number of features d.
        num_classes: number of classes K.
        head: module from features to logits; by default ``nn.Linear(feature_dim, num_classes)``.
    """

    def __init__(
        self, backbone: nn.Module, feature_dim: int, num_classes: int, head: nn.Module | None = None
    ):
        super().__init__()
        self.features = backbone
        self.feature_dim, self.num_classes = feature_dim, num_classes
        self.head = nn.Linear(feature_dim, num_classes) if head is None else head

    def forward(self, x: Tensor, return_features: bool = False):
        h = self.features(x)
        logits = self.head(h)
        return (logits, h) if return_features else logits


class MLP(Classifier):
    """Fully connected layers, each with batch normalization and ReLU.

    Args:
        inputs: number of input values; inputs are flattened.
        widths: width of every hidden layer; the last one is the feature dimension.
        norm: without it, linear layers with bias take the place of normalized ones.
        signed: no normalization and no ReLU after the last hidden layer, so that features can be
            negative, as in an unconstrained-features model.
    """

    def __init__(
        self, inputs: int, widths: Sequence[int], num_classes: int, *, norm: bool = True,
        signed: bool = False, head: nn.Module | None = None,
    ):
        if not widths:
            raise ValueError("an MLP needs at least one hidden layer")
        layers = [nn.Flatten(), *_connected(inputs, widths, norm, signed)]
        super().__init__(nn.Sequential(*layers), widths[-1], num_classes, head)


class ConvNet(Classifier):
    """3×3 convolutions that each halve the image, then fully connected layers, all with ReLU.

    Args:
        in_channels: channels of the images.
        size: height and width of the (square) images, or both.
        channels: channels of every convolution.
        widths: width of every fully connected layer; the last one is the feature dimension.
        norm, signed: as for :class:`MLP`.
    """

    def __init__(
        self, in_channels: int, size: int | tuple[int, int], channels: Sequence[int],
        widths: Sequence[int], num_classes: int, *, norm: bool = True, signed: bool = False,
        head: nn.Module | None = None,
    ):
        if not channels or not widths:
            raise ValueError("a ConvNet needs at least one convolution and one connected layer")
        high, wide = (size, size) if isinstance(size, int) else size
        layers: list[nn.Module] = []
        for a, b in zip([in_channels, *channels], channels, strict=False):
            layers.append(_conv(a, b, 3, stride=2, bias=not norm))
            layers += [nn.BatchNorm2d(b), nn.ReLU()] if norm else [nn.ReLU()]
            high, wide = (high + 1) // 2, (wide + 1) // 2
        layers.append(nn.Flatten())
        layers += _connected(high * wide * channels[-1], widths, norm, signed)
        super().__init__(nn.Sequential(*layers), widths[-1], num_classes, head)


class ResNet(Classifier):
    """ResNet-18, 20 or 50 (He et al. 2016), with the two variations of Zhu et al. 2021.

    Args:
        depth: 18 or 50 (four stages), or 20 (three stages, for small images: take ``width=16``).
        stem: ``"imagenet"`` (7×7 with stride 2 and max-pooling) or ``"cifar"`` (3×3).
        width: channels of the first stage; 64 is the standard.
        feature_dim: if given, the last residual block has that many output channels, with a 1×1
            convolution on its skip; otherwise the standard 8·width (32·width for depth 50).

    Raises:
        ValueError: another depth or stem.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, depth: int = 18, stem: str = "cifar",
        width: int = 64, feature_dim: int | None = None, head: nn.Module | None = None,
    ):
        if depth not in (18, 20, 50):
            raise ValueError(f"depth must be 18, 20 or 50, got {depth}")
        if stem not in ("imagenet", "cifar"):
            raise ValueError(f"stem must be 'imagenet' or 'cifar', got {stem!r}")
        block, counts, expand = {
            18: (_Basic, (2, 2, 2, 2), 1),
            20: (_Basic, (3, 3, 3), 1),
            50: (_Bottleneck, (3, 4, 6, 3), 4),
        }[depth]
        layers: list[nn.Module] = []
        if stem == "cifar":
            layers += [_conv(in_channels, width, 3), nn.BatchNorm2d(width), nn.ReLU()]
        else:
            layers += [_conv(in_channels, width, 7, stride=2), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.MaxPool2d(3, stride=2, padding=1)]
        channels = width
        for stage, count in enumerate(counts):
            inner = width * 2**stage
            for i in range(count):
                last = stage == len(counts) - 1 and i == count - 1
                out = feature_dim if last and feature_dim is not None else inner * expand
                layers.append(block(channels, inner, out, 2 if stage > 0 and i == 0 else 1))
                channels = out
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(nn.Sequential(*layers), channels, num_classes, head)


def count_parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """Number of parameters; buffers, such as running means, do not count."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


@contextlib.contextmanager
def own_modes(model: nn.Module) -> Iterator[nn.Module]:
    """Whatever happens inside, every submodule has its own mode again afterwards."""
    was = {module: module.training for module in model.modules()}
    try:
        yield model
    finally:
        for module, training in was.items():
            module.training = training


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode without gradients; afterwards every submodule has its own mode again."""
    with own_modes(model), torch.no_grad():
        yield model.eval()


@contextlib.contextmanager
def learning(model: nn.Module) -> Iterator[nn.Module]:
    """Training mode; submodules in evaluation mode inside a model in training mode stay so.

    Afterwards every submodule has its own mode again.
    """
    with own_modes(model):
        yield model if model.training else model.train()


def _conv(a: int, b: int, size: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(a, b, size, stride=stride, padding=size // 2, bias=bias)


def _connected(inputs: int, widths: Sequence[int], norm: bool, signed: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for a, b in zip([inputs, *widths], widths, strict=False):
        layers.append(nn.Linear(a, b, bias=not norm))
        layers += [nn.BatchNorm1d(b), nn.ReLU()] if norm else [nn.ReLU()]
    if signed:
        del layers[-2 if norm else -1 :]
    return layers


def _skip(a: int, b: int, stride: int) -> nn.Module:
    if a == b and stride == 1:
        return nn.Identity()
    return nn.Sequential(_conv(a, b, 1, stride), nn.BatchNorm2d(b))


class _Basic(nn.Module):
    def __init__(self, a: int, inner: int, out: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            _conv(a, inner, 3, stride), nn.BatchNorm2d(inner), nn.ReLU(),
            _conv(inner, out, 3), nn.BatchNorm2d(out),
        )
        self.skip = _skip(a, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))


class _Bottleneck(nn.Module):
    def __init__(self, a: int, inner: int, out: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            _conv(a, inner, 1), nn.BatchNorm2d(inner), nn.ReLU(),
            _conv(inner, inner, 3, stride), nn.BatchNorm2d(inner), nn.ReLU(),
            _conv(inner, out, 1), nn.BatchNorm2d(out),
        )
        self.skip = _skip(a, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))
