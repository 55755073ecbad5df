"""Collapse during training with Lightning: a callback that measures after every epoch.

Runs as it stands: without Lightning, a few lines play its trainer.
"""

import torch
from torch import nn

import nclib

try:
    from lightning.pytorch import Callback
except ImportError:
    Callback = object


class Collapse(Callback):
    """Measures the named layers on ``loader`` (the training data, without augmentation)."""

    def __init__(self, loader, *layers):
        self.loader, self.layers, self.history = loader, layers, []

    def on_train_epoch_end(self, trainer, module):
        with nclib.watch(module, *self.layers) as watched:
            reports = watched.measure(self.loader)
        self.history.append(reports)
        for name, report in reports.items():
            module.log(f"{name}/nc1", report.nc1)
            module.log(f"{name}/nc2", report.nc2_etf)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        return self.head(self.body(x))

    def log(self, name, value):
        print(f"{name} {value:.3g}")


if __name__ == "__main__":
    torch.manual_seed(0)
    y = torch.arange(90) % 3
    x = torch.randn(90, 8) + 2 * torch.randn(3, 8)[y]
    net, loader = Net(), [(x, y)]
    callback = Collapse(loader, "head")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=5e-3)
    for _ in range(3):
        for _ in range(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        callback.on_train_epoch_end(None, net)
    values = [reports["head"].nc1 for reports in callback.history]
    assert values[-1] < values[0] and net.training
