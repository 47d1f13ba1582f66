"""A second device for machines that have none: what fails on a GPU for its place fails here.

A tensor of the device "elsewhere" holds one of the CPU, on which everything is computed. It meets
no tensor of the CPU, numpy cannot read it, and it is made by what makes tensors on a device. So a
GPU's order of sums, speed and memory are not in it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("elsewhere")
DEVICE = torch.device("elsewhere", 0)
MOVES = ("aten::_to_copy", "aten::copy_")
INDEXED = ("aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_")


class Elsewhere(torch.Tensor):
    """A tensor elsewhere; `inner` is what it holds."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        sizes = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        kind = {"dtype": inner.dtype, "device": DEVICE}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, **sizes, **kind)
        made.inner = inner
        return made

    __torch_dispatch__ = classmethod(lambda cls, func, types, *given: _compute(func, *given))

    def numpy(self, *_, **__):
        raise TypeError("can't convert a tensor elsewhere to numpy; use `.cpu()` first")

    __array__ = numpy


for name in ("tolist", "untyped_storage", "__format__", "__repr__"):  # read as the one inside
    reads = getattr(torch.Tensor, name)
    setattr(Elsewhere, name, lambda self, *given, reads=reads: reads(self.inner, *given))


def away(given):
    """The same with every tensor elsewhere."""
    if isinstance(given, list | tuple):
        return type(given)(map(away, given))
    here = isinstance(given, torch.Tensor) and not isinstance(given, Elsewhere)
    return Elsewhere(given) if here else given


def _unwrap(given):
    if isinstance(given, list | tuple):
        return type(given)(map(_unwrap, given))
    return given.inner if isinstance(given, Elsewhere) else given


def _tensors(given) -> Iterator[torch.Tensor]:
    for each in given:
        if isinstance(each, list | tuple):
            yield from _tensors(each)
        elif isinstance(each, torch.Tensor):
            yield each


def _compute(func, args=(), kwargs=MappingProxyType({})):
    """What `func` gives, on the device that its tensors or its argument `device` tell."""
    tensors, name = list(_tensors((args, tuple(kwargs.values())))), func._schema.name
    there = any(isinstance(each, Elsewhere) for each in tensors)
    if name in INDEXED:  # the index itself may lie on the CPU
        tensors = list(_tensors((args[0], *args[2:])))
    here = any(each.dim() for each in tensors if not isinstance(each, Elsewhere))
    if there and here and name not in MOVES:
        raise RuntimeError(f"Expected all tensors to be on the same device ({func})")
    given = {name: _unwrap(value) for name, value in kwargs.items()}
    if (device := kwargs.get("device")) is not None:
        there, given["device"] = torch.device(device).type == DEVICE.type, "cpu"
    result = func(*map(_unwrap, args), **given)
    if isinstance(args[0] if args else None, Elsewhere) and name.endswith("_"):
        if torch.Tag.inplace_view in func.tags:  # the outer tensor's sizes change with the inner's
            with no_dispatch():
                torch._C._set_meta_in_tls_dispatch_include(True)
                func(*args, **kwargs)
                torch._C._set_meta_in_tls_dispatch_include(False)
        return args[0]
    return away(result) if there else result


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, *given):
        return _compute(func, *given)


class _Functions(TorchFunctionMode):
    """What goes past the dispatcher: `torch.tensor` there, and a list as an index."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        given = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor):
            device, made = given.pop("device", None), func(*args, **given)
            return made if device is None else made.to(device)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = (args[0], tuple(map(_unlisted, places)), *args[2:])
        return func(*args, **given)


def _unlisted(index):
    return torch.tensor(index) if isinstance(index, list | range) else index


@contextmanager
def second_device() -> Iterator[None]:
    """Within the `with` there is a device "elsewhere"."""
    with _Dispatch(), _Functions():
        yield
