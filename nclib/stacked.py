"""B networks of one architecture as one batched network; see :mod:`nclib.ensembles`."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Inside, features are (B, d, n) and images (n, B·C, height, width): normalization over the samples
# of each member then needs no copy, and a convolution of all members is one grouped convolution.
# Inputs that all members share stay (n, d) or (n, C, height, width) until the first layer.


class Ensemble(nn.Module):
    """B networks of one architecture, given as a list of ``nclib.models`` or others like them.

    They need ``features`` and ``head`` made of linear layers, convolutions without dilation, batch
    normalization, ReLU and other pointwise functions, pooling and ``nn.Flatten``, in any nesting
    whose own ``forward`` only passes on and adds. The parameters have the names of the single
    network and a leading axis: ``nets.head.weight`` is ``(B, K, d)``. They are copies.

    Raises:
        ValueError: different architectures, or a layer that is not known.
    """

    def __init__(self, nets: Sequence[nn.Module]):
        super().__init__()
        states = [net.state_dict() for net in nets]
        shapes = [{name: v.shape for name, v in state.items()} for state in states]
        if not nets or any(s != shapes[0] for s in shapes):
            raise ValueError("an ensemble needs networks with the same parameters")
        self.members = len(nets)
        self._template = [copy.deepcopy(nets[0])]  # in a list: not a part of this module
        self.features = _stacked([net.features for net in nets])
        self.head = _stacked([net.head for net in nets])
        self._flat = not any(isinstance(m, _Conv2d) for m in self.features.modules())
        self.training = nets[0].training

    def forward(self, x: Tensor, return_features: bool = False):
        """Logits ``(B, n, K)``, with ``return_features`` also features ``(B, n, d)``.

        Args:
            x: ``(B, n, ...)`` with inputs of each member, or ``(1, n, ...)`` shared by all.
        """
        if len(x) not in (1, self.members):
            raise ValueError(f"x has leading axis {len(x)}, neither 1 nor {self.members} members")
        if self._flat:
            x = x.flatten(2)
        if len(x) == 1:
            x = x[0]
        elif x.dim() == 3:
            x = x.mT
        else:
            x = x.transpose(0, 1).flatten(1, 2)
        h = self.features(x)
        if h.dim() == 2:  # nothing before the head
            h = h.mT.expand(self.members, -1, -1)
        logits = self.head(h).mT
        return (logits, h.mT) if return_features else logits

    def member(self, b: int) -> nn.Module:
        """A copy of network ``b`` as an ordinary module."""
        net = copy.deepcopy(self._template[0])
        net.load_state_dict({name: v[b] for name, v in self.state_dict().items()})
        for name, module in net.named_modules():
            module.training = self.get_submodule(name).training
        return net.to(next(self.parameters()).device)


def _stacked(modules: Sequence[nn.Module]) -> nn.Module:
    """One module for all: known layers become batched ones, others keep their ``forward``."""
    first = modules[0]
    for kind, layer in _LAYERS.items():
        if type(first) is kind:
            return layer(modules)
    if type(first) in _PLAIN:
        return first
    children = dict(first.named_children())
    if not children or any(True for _ in first.parameters(recurse=False)):
        raise ValueError(f"an ensemble cannot be made of {type(first).__name__} layers")
    new = copy.deepcopy(first)
    new._modules = {n: _stacked([m.get_submodule(n) for m in modules]) for n in children}
    return new


class _Layer(nn.Module):
    """Parameters and buffers of the given layers with a leading axis; the first one's settings."""

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        self.members, self.like = len(layers), [layers[0]]
        for name in ("weight", "bias"):
            values = [getattr(layer, name) for layer in layers]
            if values[0] is None:
                self.register_parameter(name, None)
                continue
            stacked = torch.stack([v.detach() for v in values])
            setattr(self, name, nn.Parameter(stacked, requires_grad=values[0].requires_grad))
        for name, _ in layers[0].named_buffers():
            values = [layer.get_buffer(name) for layer in layers]
            self.register_buffer(name, torch.stack(values).clone())
        self.training = layers[0].training


class _Linear(_Layer):
    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:  # shared inputs: one product
            y = (self.weight.flatten(0, 1) @ x.mT).view(self.members, -1, len(x))
            return y if self.bias is None else y + self.bias[..., None]
        if self.bias is None:
            return self.weight @ x
        return torch.baddbmm(self.bias[..., None], self.weight, x)


class _Conv2d(_Layer):
    def __init__(self, layers):
        super().__init__(layers)
        conv = layers[0]
        if conv.groups != 1 or conv.padding_mode != "zeros":
            raise ValueError("an ensemble needs convolutions in one group, padded with zeros")
        self.options = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.flatten()
        groups = x.shape[1] // self.weight.shape[2]  # 1: shared inputs
        weight = self.weight.flatten(0, 1)
        return nn.functional.conv2d(x, weight, bias, groups=groups, **self.options)


class _BatchNorm(_Layer):
    def forward(self, x: Tensor) -> Tensor:
        norm, statistics = self.like[0], (None, None)
        if norm.track_running_stats:
            statistics = self.running_mean.view(-1), self.running_var.view(-1)
            if self.training:
                self.num_batches_tracked += 1
        scale = (None, None)
        if self.weight is not None:
            scale = self.weight.flatten(), self.bias.flatten()
        flat = x.reshape(1, -1, x.shape[-1]) if x.dim() == 3 else x
        batch = self.training or not norm.track_running_stats
        return nn.functional.batch_norm(
            flat, *statistics, *scale, batch, norm.momentum, norm.eps
        ).view(x.shape)


class _Flatten(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.members, self.training = len(layers), layers[0].training

    def forward(self, x: Tensor) -> Tensor:
        return x if x.dim() < 4 else x.reshape(len(x), self.members, -1).permute(1, 2, 0)


_LAYERS = {nn.Linear: _Linear, nn.Conv2d: _Conv2d, nn.BatchNorm1d: _BatchNorm,
           nn.BatchNorm2d: _BatchNorm, nn.Flatten: _Flatten}
_PLAIN = {nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus, nn.Identity,
          nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d}
