"""Collapse during training with the trainer of Hugging Face's transformers.

With transformers installed the model is a small BERT from a configuration; without, a model with
the same calls stands in, so that the example runs as it stands.
"""

from types import SimpleNamespace

import torch
from torch import nn

import nclib

try:
    from transformers import TrainerCallback
except ImportError:
    TrainerCallback = object


class Collapse(TrainerCallback):
    """Measures the input of the classifier at every evaluation; ``loader`` gives dicts."""

    def __init__(self, loader, layer="classifier"):
        self.loader, self.layer, self.history = loader, layer, []

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        with nclib.watch(model, self.layer, pool="first") as watched:
            report = watched.measure(self.loader)[self.layer]
        self.history.append(report)
        print(f"step {state.global_step}: nc1 {report.nc1:.3g}, nc2 {report.nc2_etf:.3g}")


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.mix = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.classifier = nn.Linear(16, 3)

    def forward(self, input_ids, labels=None):
        logits = self.classifier(self.mix(self.embed(input_ids))[:, 0])
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SimpleNamespace(logits=logits, loss=loss)


def model():
    try:
        from transformers import BertConfig, BertForSequenceClassification
    except ImportError:
        return Small()
    return BertForSequenceClassification(BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, num_labels=3,
    ))


if __name__ == "__main__":
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    ids = torch.randint(10, (60, 6)) + 10 * labels[:, None]
    net, loader = model(), [{"input_ids": ids, "labels": labels}]
    callback = Collapse(loader)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for step in range(41):
        if step % 20 == 0:
            callback.on_evaluate(None, SimpleNamespace(global_step=step), None, model=net)
        optimizer.zero_grad()
        net(ids, labels=labels).loss.backward()
        optimizer.step()
    assert callback.history[-1].nc1 < callback.history[0].nc1
