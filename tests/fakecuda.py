"""A pretend CUDA device for machines without one: the CPU's values under CUDA's rules.

    with fake_cuda():
        torch.zeros(3, device="cuda"), model.to("cuda"), torch.cuda.is_available()

A tensor "on cuda" wraps a CPU tensor. To C++ it is on torch's spare device (PrivateUse1), to Python
on "cuda". Operations unwrap, compute and wrap again; they raise where CUDA would (tensors of two
devices, NumPy, generators of another device, synchronization while a graph is captured) and warn
where CUDA has no deterministic kernel. Not covered: the numerics of CUDA's kernels, the dtypes that
they lack, memory, streams, autocast.

Importing this takes the spare device for the whole process, so it belongs in a process of its own:
``test_device.py`` and ``rehearse.py`` start one.
"""

from __future__ import annotations

import contextlib
import types
import warnings
from unittest import mock

import torch
from torch.utils import backend_registration
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves, tree_map

with warnings.catch_warnings():  # torch's own; imported later, they would inspect what is patched
    warnings.simplefilter("ignore")
    import torch._decomp.decompositions_for_jvp
    import torch._dynamo

backend_registration._setup_privateuseone_for_python_backend("fakecuda")

CUDA, CPU, SPARE = torch.device("cuda", 0), torch.device("cpu"), torch.device("fakecuda", 0)

#: Operations that take indices on the CPU.
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
#: Operations that take CPU tensors without axes as numbers, as all pointwise ones do.
NUMBERS = INDEXING | {"fill_", "where", "masked_fill", "masked_fill_"}
COPIES = {"copy_", "_to_copy", "_foreach_copy_"}
#: Operations that wait for the device.
WAITING = {"_local_scalar_dense", "nonzero", "equal", "masked_select"}
#: Operations without a deterministic CUDA kernel (torch.use_deterministic_algorithms lists them).
RANDOM_ORDER = {
    "median.dim", "median.dim_values", "nanmedian.dim", "kthvalue.default", "histc.default",
    "put_.default", "cumsum.default", "nll_loss2d_forward.default",
    "_adaptive_avg_pool2d_backward.default", "adaptive_max_pool2d_backward.default",
}

captured: list[list] = []  # the operations of the graph under capture, if any


class CudaTensor(torch.Tensor):
    """A tensor on the pretend device; ``elem`` holds its values on the CPU."""

    @staticmethod
    def __new__(cls, elem: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls, elem.size(), strides=elem.stride(), storage_offset=elem.storage_offset(),
            dtype=elem.dtype, layout=elem.layout, device=SPARE,
            storage_size=1 << 50,  # room to resize
        )

    def __init__(self, elem: torch.Tensor):
        self.elem = elem

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    data = property(
        lambda self: self.detach(), lambda self, new: setattr(self, "elem", new.elem)
    )

    def numpy(self, *args, **kwargs):
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
            "to host memory first."
        )

    __array__ = numpy

    def tolist(self):
        return self.cpu().tolist()

    def __repr__(self, **kwargs):
        return f"{self.elem.detach()!r}@cuda"

    def __format__(self, spec):
        return format(self.item(), spec) if self.dim() == 0 else repr(self)

    def __deepcopy__(self, memo):
        new = CudaTensor(self.elem.detach().clone()).requires_grad_(self.requires_grad)
        new._is_param = getattr(self, "_is_param", False)
        return memo.setdefault(id(self), new)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), func.overloadpacket.__name__
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        on_device = [t for t in given if isinstance(t, CudaTensor)]
        if any(t.device.type == "meta" for t in given):  # torch.func asks for a shape only
            plain = tree_map(_meta, (args, kwargs))
            return func(*plain[0], **plain[1])
        indices = list(args[1]) if name in INDEXING else []
        on_host = [
            t for t in given if not isinstance(t, CudaTensor) and not any(t is i for i in indices)
        ]
        stays = (kwargs.get("device") or SPARE).type != "cpu"
        _same_device(func, name, args, on_host, given)
        if captured and (name in WAITING or (name in COPIES and (on_host or not stays))):
            raise RuntimeError(
                f"CUDA error: operation not permitted when stream is capturing (aten.{name})"
            )
        if (
            str(func)[5:] in RANDOM_ORDER and torch.are_deterministic_algorithms_enabled()
            and (name != "cumsum" or on_device[0].is_floating_point())
        ):
            warnings.warn(
                f"aten.{name} on CUDA does not have a deterministic implementation", stacklevel=2
            )
        if "device" in kwargs:
            kwargs["device"] = CPU
        bare_args, bare_kwargs = tree_map(_bare, (args, kwargs))
        out = func(*bare_args, **bare_kwargs)
        if captured:
            captured[-1].append((func, bare_args, bare_kwargs, out))
        origin = {id(t.elem): t for t in on_device} | {id(t): t for t in on_host}

        def wrap(t):
            if not isinstance(t, torch.Tensor) or isinstance(t, CudaTensor):
                return t
            if id(t) not in origin:
                return CudaTensor(t) if stays else t
            old = origin[id(t)]
            if old.shape != t.shape:  # changed in place: squeeze_ and the like
                with no_dispatch():
                    torch.ops.aten.as_strided_(old, t.size(), t.stride(), t.storage_offset())
            return old

        return tree_map(wrap, out)


def _bare(value):
    return value.elem if isinstance(value, CudaTensor) else value


def _meta(value):
    return value.elem.to("meta") if isinstance(value, CudaTensor) else value


def _same_device(func, name, args, on_host, given) -> None:
    """Raise where CUDA refuses tensors on the CPU."""
    numbers = torch.Tag.pointwise in func.tags or name in NUMBERS
    written = [
        value for value, argument in zip(args, func._schema.arguments, strict=False)
        if argument.alias_info and argument.alias_info.is_write
    ]
    if name not in COPIES and any(
        t.dim() or not numbers or any(t is value for value in written) for t in on_host
    ):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! (aten.{name}, shapes {[tuple(t.shape) for t in given]})"
        )


def _copy(source, to, non_blocking=False):
    _bare(to).copy_(_bare(source))
    return to


_library = torch.library.Library("aten", "IMPL")  # what C++ itself makes on the spare device
_library.impl("_copy_from", _copy, "PrivateUse1")
for _name, _make in {
    "empty.memory_format": torch.empty, "_efficientzerotensor": torch.zeros,
    "empty_strided": torch.empty_strided,
}.items():
    _library.impl(
        _name, lambda *a, make=_make, dtype=None, **k: CudaTensor(make(*a, dtype=dtype)),
        "PrivateUse1",
    )


class Generator(torch.Generator):
    """A generator that draws on the CPU and says that it lives on ``device``."""

    def __new__(cls, device="cpu"):
        self = super().__new__(cls, "cpu")
        self.kind = torch.device(device)
        return self

    device = property(lambda self: self.kind)


class Graph:
    """A CUDA graph: operations are recorded while it is captured, and done again by ``replay``."""

    @contextlib.contextmanager
    def capture(self, **kwargs):
        captured.append([])
        try:
            yield
        finally:
            self.operations = captured.pop()

    def replay(self):
        def refresh(old, new):
            if isinstance(old, torch.Tensor) and old is not new:
                old.copy_(new)

        for func, args, kwargs, out in self.operations:
            tree_map(refresh, out, func(*args, **kwargs))


def _translated(real):
    """``real`` with device "cuda" understood, and the generator's device compared as CUDA does."""
    def there(value):
        named = isinstance(value, str | torch.device) and str(value).split(":")[0] == "cuda"
        return SPARE if named else value

    def call(*args, **kwargs):
        args, kwargs = [there(a) for a in args], {k: there(v) for k, v in kwargs.items()}
        drawn = getattr(kwargs.get("generator"), "device", None)
        target = kwargs.get("device")
        if drawn and (drawn.type == "cuda") != (target == SPARE):
            raise RuntimeError(
                f"Expected a '{'cuda' if target == SPARE else 'cpu'}' device type for generator "
                f"but found '{drawn.type}'"
            )
        if target == SPARE and not (args and isinstance(args[0], torch.Tensor)):
            grad = kwargs.pop("requires_grad", False)  # make it on the CPU, then move it
            return real(*args, **kwargs | {"device": CPU}).to(SPARE).requires_grad_(grad)
        return real(*args, **kwargs)

    return call


MAKERS = """tensor as_tensor zeros ones full empty rand randn randint randperm arange linspace
    logspace eye normal tril_indices triu_indices zeros_like ones_like full_like empty_like
    rand_like randn_like""".split()
METHODS = "to new_zeros new_ones new_full new_empty new_tensor".split()


@contextlib.contextmanager
def fake_cuda(capability: tuple[int, int] = (9, 0)):
    """torch with a CUDA device of the given compute capability, as far as Python code sees."""
    stream = types.SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)
    patches = [(torch, n, _translated(getattr(torch, n))) for n in MAKERS]
    patches += [(torch.Tensor, n, _translated(getattr(torch.Tensor, n))) for n in METHODS]
    patches += [
        (torch.Tensor, "cuda", lambda self, *a, **k: self.to(SPARE)),
        (torch, "Generator", Generator),
        (torch, "autocast", lambda *a, **k: contextlib.nullcontext()),
    ]
    patches += [(torch.cuda, n, v) for n, v in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda *a: "pretend CUDA",
        "get_device_capability": lambda *a: capability,
        "synchronize": lambda *a: None,
        "current_stream": lambda *a: stream,
        "Stream": lambda *a: stream,
        "stream": contextlib.nullcontext,
        "CUDAGraph": Graph,
        "graph": Graph.capture,
        "manual_seed_all": lambda seed: None,
        "empty_cache": lambda: None,
        "max_memory_allocated": lambda *a: 0,
        "reset_peak_memory_stats": lambda *a: None,
        "get_rng_state": lambda *a: torch.get_rng_state(),
        "set_rng_state": lambda state, *a: None,
    }.items()]
    with contextlib.ExitStack() as stack:
        for target, name, value in patches:
            stack.enter_context(mock.patch.object(target, name, value))
        yield
