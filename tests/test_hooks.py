"""Layers of models that are not ours: measured as by hand, and the model left as it was."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

import nclib
from nclib import hooks, measure
from nclib.hooks import watch

EXAMPLES = Path(__file__).parents[1] / "examples"


def data(N=60, C=4):
    g = torch.Generator().manual_seed(0)
    return torch.randn(N, 3, 6, 6, generator=g), torch.arange(N) % C


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4),
    )


def loader(x, y):
    dataset = torch.utils.data.TensorDataset(x, y)
    return torch.utils.data.DataLoader(dataset, batch_size=16, shuffle=True)


def test_every_layer_is_measured_as_by_hand():
    model, (x, y) = convolutional(), data()
    model[1].train(False)  # frozen by its user
    modes = [m.training for m in model.modules()]
    with watch(model, "4", "6", "8", pool="mean") as watched:
        assert not model.training
        found = watched.measure(loader(x, y))
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_pre_hooks for m in model.modules())
    model.eval()
    with torch.no_grad():
        h4 = model[:4](x).mean((2, 3))
        h6, h8 = model[:6](x), model[:8](x)
    assert list(found) == ["4", "6", "8"]
    for name, h in (("4", h4), ("6", h6)):
        expected = measure(h, y)
        assert found[name].nc1 == pytest.approx(expected.nc1, rel=1e-5) and found[name].nc3 is None
    expected = measure(h8, y, model[8].weight, model[8].bias).to_dict()
    for key, value in found["8"].to_dict().items():
        if not isinstance(value, str):
            assert value == pytest.approx(expected[key], rel=1e-4), key


def test_the_model_is_restored_after_an_error():
    model = convolutional()
    with pytest.raises(RuntimeError, match="mine"), watch(model, "8"):
        raise RuntimeError("mine")
    assert model.training and all(m.training for m in model.modules())
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_inputs_of_one_forward_pass():
    model, (x, _) = convolutional(), data()
    with watch(model, "0", "8", eval=False) as watched:
        assert model.training
        model(x)
        assert torch.equal(watched.inputs["0"], x.flatten(1))
        assert watched.inputs["8"].shape == (60, 12) and not watched.inputs["8"].requires_grad


class Encoder(nn.Module):
    """A transformer that takes keywords and gives an object, as those of a popular library do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(20, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)

    def forward(self, input_ids, attention_mask=None):
        return {"logits": self.head(self.layers(self.embed(input_ids)))}


def tokens():
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(20, (12, 9), generator=g)
    return ids, (ids[:, 0] % 5), torch.where(ids > 17, -100, ids % 5)


def test_sequences_by_pooling_and_by_token():
    model = Encoder()
    ids, labels, every = tokens()
    labels = torch.arange(12) % 5
    batches = [{"input_ids": ids, "labels": labels, "attention_mask": None}]
    for pool, take in (("first", lambda h: h[:, 0]), ("last", lambda h: h[:, -1]),
                       ("mean", lambda h: h.mean(1)), (lambda h: h[:, 2], lambda h: h[:, 2])):
        with watch(model, "head", pool=pool) as watched:
            found = watched.measure(batches)["head"]
        with torch.no_grad():
            h = model.eval().layers(model.embed(ids))
        assert found.nc1 == pytest.approx(measure(take(h), labels).nc1, rel=1e-4)
    with watch(model, "head", pool=None) as watched:
        found = watched.measure([{"input_ids": ids, "labels": every}])["head"]
    kept = every >= 0
    expected = measure(h[kept], every[kept], model.head.weight, model.head.bias)
    assert found.num_samples == int(kept.sum())
    assert found.nc1 == pytest.approx(expected.nc1, rel=1e-4) and found.nc4 == expected.nc4
    with watch(model, "head") as watched, pytest.raises(ValueError, match="pool=None"):
        watched.measure([{"input_ids": ids, "labels": every}])


def test_own_run_and_classes_seen():
    model, (x, y) = convolutional(), data(C=3)

    def run(model, batch):
        model(batch["image"])
        return batch["target"]

    with watch(model, "8") as watched:
        found = watched.measure([{"image": x, "target": y}], run=run, classes="seen")["8"]
        with pytest.raises(ValueError, match="no samples of class 3"):
            watched.measure([(x, y)])
    assert found.num_classes == 3 and found.nc4 is not None


def test_what_is_refused():
    model, (x, y) = convolutional(), data()
    with pytest.raises(ValueError, match=r"no layers \['9'\]; there are 0, 1"), watch(model, "9"):
        pass
    with pytest.raises(ValueError, match="no layers"), watch(model):
        pass
    with pytest.raises(ValueError, match="pool must be"), watch(model, "8", pool="max"):
        pass
    with watch(model, "6", "0") as watched, pytest.raises(ValueError, match="no samples of class"):
        watched.measure([(x, y)])  # 12 outputs, four of which are seen
    with watch(model, "0") as watched, pytest.raises(ValueError, match="give num_classes"):
        watched.measure([(x, y)])
    twice = nn.Sequential(model[0], nn.Flatten(), nn.Linear(128, 4))
    relu = nn.ReLU()
    shared = nn.Sequential(relu, relu)
    with watch(shared, "0") as watched, pytest.raises(ValueError, match="more than once"):
        watched.measure([(x.flatten(1), y)], 4)
    twice.spare = nn.Linear(2, 2)
    twice.forward = lambda v: twice[2](twice[1](twice[0](v)))
    with watch(twice, "spare") as watched, pytest.raises(ValueError, match="does not reach"):
        watched.measure([(x, y)])


def test_inputs_are_those_of_the_last_forward_pass():
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 3))
    one, two = torch.randn(5, 2, 4), torch.randn(7, 2, 4)
    with watch(model, "1") as watched:
        model(one)
        assert torch.equal(watched.inputs["1"], one.flatten(1))
        model(two)
        assert torch.equal(watched.inputs["1"], two.flatten(1))
    model(one)
    assert torch.equal(watched.inputs["1"], two.flatten(1)) and not model._forward_pre_hooks


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.stem)
def test_examples_run(path, capsys):
    runpy.run_path(str(path), run_name="__main__")
    assert "nc1" in capsys.readouterr().out


def test_help_lists_the_public_functions():
    assert set(nclib.__all__) <= set(dir(nclib)) and hooks.watch is nclib.watch
    assert (Path(nclib.__file__).parent / "py.typed").exists()
    import pydoc

    text = pydoc.plain(pydoc.render_doc(nclib))
    assert all(name in text for name in ("measure(", "measure_batches(", "measure_regression("))
