"""The two passes as objects that take batches, merge, synchronize over ranks, and can be saved.

    first = ClassMeans(num_classes=10)
    for features, labels in batches:
        first.update(features, labels)
    second = ClassScatter(first, weight=head.weight, bias=head.bias)
    for features, labels in batches:         # the same samples, in any order and any split
        second.update(features, labels)
    stats = second.compute()                 # a ClassStats

Several processes, each with its own share of the data, call ``sync()`` on both before they go on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import sums as _sums

__all__ = ["ClassMeans"]


class Stream:
    """Common to both passes: checks, labels, the buffer of residuals."""

    def __init__(self):
        self.dim = 0  # until the first batch, which also sets dtype and device
        self.synced = False

    def _take(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The batch, checked, on the device of the first, with classes as rows of the tables."""
        if self.synced:
            raise ValueError("these are the sums of all ranks: nothing can be added any more")
        features, labels = torch.as_tensor(features).detach(), torch.as_tensor(labels)
        _sums.check_batch(features, labels)
        if self.dim and features.shape[1] != self.dim:
            raise ValueError(
                f"features of one batch are {tuple(features.shape)}, "
                f"those of the first have d={self.dim}"
            )
        device = self.device if self.dim else features.device
        labels = labels.to(device=device, dtype=torch.int64)
        _sums.check_labels(labels, self.num_labels)
        features = features.to(device)
        if self.classes is not None:
            classes = self.classes.to(device)
            rows = torch.searchsorted(classes, labels).clamp(max=len(classes) - 1)
            kept = classes[rows] == labels
            features, labels = features[kept], rows[kept]
        if not self.dim:
            self._start(features.shape[1], features.dtype, features.device)
        return features, labels

    def _flush(self) -> None:
        if self.dim:
            with torch.no_grad(), _sums.full_precision():
                self._pieces.flush()


class ClassMeans(Stream):
    """First pass: counts and class means.

    Args:
        num_classes: C, the number of classes or of rows of a head; None with ``classes`` means
            that any label is allowed.
        classes: the classes to measure; samples of others are left out. By default all C, each of
            which then needs a sample.

    Each sample is first shifted by the first one seen of its class, so near collapse the sums are
    of tiny numbers, and the means are right far beyond the features' own precision; identical
    samples give exactly that sample as their mean.

    Raises:
        ValueError: fewer than two classes, or classes that repeat or are not in ``[0, C)``.
    """

    def __init__(self, num_classes: int | None, classes=None):
        super().__init__()
        self.num_labels, self.classes = num_classes, None
        if classes is not None:
            ids = torch.as_tensor(classes, dtype=torch.int64).flatten().cpu()
            self.classes = ids.unique()
            if len(self.classes) != len(ids):
                raise ValueError(f"classes repeat: {ids.tolist()}")
            _sums.check_labels(ids, num_classes)
        elif num_classes is None:
            raise ValueError("give num_classes or weight, or the classes to measure")
        self.num_classes = num_classes if classes is None else len(self.classes)
        if self.num_classes < 2:
            raise ValueError(f"need at least 2 classes, got {self.num_classes}")

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: ``(B, d)`` features of a float dtype, ``(B,)`` integer labels.

        Raises:
            ValueError: wrong shapes or dtypes, or a label out of range.
        """
        with torch.no_grad():
            features, labels = self._take(features, labels)
            self._meet(features, labels)
            self._pieces.add(features, labels, self.first)

    def _start(self, dim: int, dtype: torch.dtype, device: torch.device) -> None:
        C, self.dim, self.device, self.given = self.num_classes, dim, device, dtype
        self.dtype = torch.promote_types(dtype, torch.float32)
        self.home = _sums.home(device)
        self.first = torch.zeros(C, dim, dtype=self.dtype, device=device)
        self.met = torch.zeros(C, dtype=torch.bool, device=device)
        self.sums = torch.zeros(C, dim, dtype=torch.float64, device=self.home)
        self.counts = torch.zeros(C, dtype=torch.int64, device=self.home)
        self._all_met = False
        self._pieces = _sums.Pieces(dim, self.dtype, device, self._use)

    def _meet(self, x: Tensor, y: Tensor) -> None:
        """Keep the first sample of each class not seen before."""
        if self._all_met or not len(y):
            return
        order, starts, sizes = _sums.sort_labels(y, self.num_classes)
        new = (sizes > 0) & ~self.met
        samples = x[order[starts.clamp(max=len(y) - 1)]].to(self.dtype)
        self.first = torch.where(new[:, None], samples, self.first)
        self.met |= new
        self._all_met = bool(self.met.all())

    def _use(self, r: Tensor, y: Tensor) -> None:
        order, starts, sizes = _sums.sort_labels(y, self.num_classes)
        self.counts += sizes.to(self.home)
        if self.num_classes <= len(y):
            self.sums += _sums.sum_by_class(r, order, starts).to(self.home).double()
            return
        rows = sizes.nonzero().flatten()  # most of many classes have no sample in a piece
        sums = _sums.sum_by_class(r, order, starts[rows]).to(self.home).double()
        self.sums.index_add_(0, rows.to(self.home), sums)  # each row once: no order of additions

    def merge(self, other: ClassMeans) -> None:
        """Add the samples of another shard; ``other`` stays as it is.

        Raises:
            ValueError: another number of classes or of dimensions.
        """
        self._flush()
        other._flush()
        if not other.dim:
            return
        if not self.dim:
            self._start(other.dim, other.given, other.device)
        if (self.num_classes, self.dim) != (other.num_classes, other.dim):
            raise ValueError(
                f"shards of C={self.num_classes}, d={self.dim} and of C={other.num_classes}, "
                f"d={other.dim} do not fit"
            )
        first, met = other.first.to(self.device), other.met.to(self.device)
        self.first = torch.where(self.met[:, None], self.first, first.to(self.dtype))
        self.met |= met
        self._all_met = bool(self.met.all())
        counts = other.counts.to(self.home)
        shift = first.to(self.home).double() - self.first.to(self.home).double()
        self.sums += other.sums.to(self.home) + counts[:, None] * shift
        self.counts += counts

    def sync(self, group=None) -> None:
        """Give every rank of a ``torch.distributed`` group the sums of all. Call it on every rank.

        Raises:
            ValueError: ranks with different C or d, or a second call.
        """
        import torch.distributed as dist

        if self.synced:
            raise ValueError("synchronized before")
        self._flush()
        at = collective_device(self, group)
        wide = torch.tensor([self.dim, self.num_classes, -self.num_classes], device=at)
        dist.all_reduce(wide, dist.ReduceOp.MAX, group)
        dim, most, least = wide.tolist()
        if most != -least or self.dim not in (0, dim):
            raise ValueError(f"ranks differ: C={self.num_classes}, d={self.dim} here")
        wide = torch.tensor(int(self.dim and self.dtype == torch.float64), device=at)
        dist.all_reduce(wide, dist.ReduceOp.MAX, group)
        if not self.dim:
            self._start(dim, torch.float64 if wide else torch.float32, torch.device(at))
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        owner = torch.where(self.met, rank, size).to(at)
        dist.all_reduce(owner, dist.ReduceOp.MIN, group)
        first = torch.where((owner == rank)[:, None].to(self.device), self.first.double(), 0.0)
        first = first.to(at)
        dist.all_reduce(first, group=group)  # one term is not zero: exact
        first = first.to(self.home)
        sums = self.sums + self.counts[:, None] * (self.first.to(self.home).double() - first)
        for total in (sums := sums.to(at), counts := self.counts.to(at)):
            dist.all_reduce(total, group=group)
        self.sums, self.counts = sums.to(self.home), counts.to(self.home)
        self.first, self.met = first.to(self.device, self.dtype), (owner < size).to(self.device)
        self.synced = True

    def seen(self) -> ClassMeans:
        """The same, of the classes that have a sample alone."""
        self._flush()
        rows = (self.counts > 0).nonzero().flatten().cpu() if self.dim else []
        names = torch.arange(self.num_classes) if self.classes is None else self.classes
        out = ClassMeans(self.num_labels, names[rows])
        out._start(self.dim, self.given, self.device)
        for name in ("first", "met", "sums", "counts"):
            setattr(out, name, getattr(self, name)[rows.to(getattr(self, name).device)])
        out.synced = self.synced
        return out

    def compute(self) -> tuple[Tensor, Tensor]:
        """Counts ``(C,)`` int64 and class means ``(C, d)`` float64.

        Raises:
            ValueError: NaN or infinity, a class without samples, fewer than two samples.
        """
        self._flush()
        _sums.check_counts(self.counts if self.dim else torch.zeros(self.num_classes), self.classes)
        if not torch.isfinite(self.sums).all():
            raise ValueError("features have NaN or infinity")
        return self.counts, self.sums / self.counts[:, None] + self.first.to(self.home).double()

    def state_dict(self) -> dict:
        """What :meth:`load_state_dict` needs to go on."""
        self._flush()
        if not self.dim:
            return {"dim": 0}
        state = {k: getattr(self, k).clone() for k in ("first", "met", "sums", "counts")}
        return state | {"dim": self.dim, "given": self.given, "synced": self.synced}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a :meth:`state_dict` of the same classes."""
        if state["dim"]:
            if state["first"].shape[0] != self.num_classes:
                raise ValueError(f"state of C={len(state['first'])}, not C={self.num_classes}")
            self._start(state["dim"], state["given"], state["first"].device)
            for name in ("first", "met", "sums", "counts"):
                setattr(self, name, state[name].clone())
            self._all_met, self.synced = bool(self.met.all()), state["synced"]


def collective_device(stream: Stream, group) -> torch.device | str:
    """Where a collective of the group can run."""
    import torch.distributed as dist

    if "nccl" in dist.get_backend(group):
        known = getattr(stream, "device", None)
        return known if known is not None and known.type == "cuda" else "cuda"
    return "cpu"
