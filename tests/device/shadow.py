"""Pretend to have a GPU: tensors that say they are on it, and know when a host waits.

A `Shadow` tensor holds one of the CPU (or of the meta device, which computes shapes alone) and names another device.
Inside a `Pretended` device every operation is looked at: tensors of both sides in one operation are refused as CUDA
refuses them, copies between the sides are followed, and whatever makes the host wait for the device is counted.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

ROOT = Path(__file__).parents[2]
aten = torch.ops.aten
# operations whose result's shape or value the host must know: each waits for the device
READS = {
    aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select, aten._unique,
    aten._unique2, aten.unique_consecutive, aten.unique_dim, aten.bincount,
}  # fmt: skip
MASKED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
COPIES = {aten._to_copy, aten.copy_, aten._copy_from}


class Shadow(Tensor):
    """A tensor that says that it is on a device, and holds its values elsewhere (`held`)."""

    held: Tensor
    where: torch.device

    @staticmethod
    def __new__(cls, real: Tensor, device: torch.device) -> "Shadow":
        """Wrap a tensor."""
        shape = torch.empty_strided(real.shape, real.stride(), dtype=real.dtype, device="meta")
        self = Tensor._make_subclass(cls, shape, False, dispatch_device=True, device_for_backend_keys=device)
        self.held, self.where = real, device
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse to compute outside the pretended device."""
        if Pretended.current is None:
            raise RuntimeError("tensors of a pretended device are used outside it")
        return Pretended.current.run(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:
        """Return where the tensor says that it is."""
        return self.where

    def tolist(self) -> Any:
        """Copy to the host, as CUDA tensors do."""
        return self.cpu().tolist()

    def __repr__(self) -> str:
        """Say what it is without reading values."""
        return f"Shadow({tuple(self.shape)}, {self.dtype}, {self.device})"


class Pretended(TorchDispatchMode):
    """A device that is not there.

    Args:
        device: its name. `cuda` lets autocast and the choice of kernels see a GPU, but autograd has no threads for it;
            `meta` runs backward passes too.
        values: compute values on the CPU; otherwise shapes alone.

    Attributes:
        waits: how often the host waited for the device, by place in the code and operation.
        uploads: how often the host copied to the device and waited for that, likewise.
    """

    current: "Pretended | None" = None
    _mode_key = torch._C._TorchDispatchModeKey.FAKE  # torch then initializes no CUDA

    def __init__(self, device: str = "cuda:0", values: bool = False):
        super().__init__()
        self.device, self.values = torch.device(device), values
        self.waits: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()

    def __enter__(self) -> "Pretended":
        """Enter the device."""
        torch._C._ensureCUDADeviceGuardSet()  # where there is no GPU, nothing is asked to switch to one
        self.outer, Pretended.current = Pretended.current, self
        self.lifted = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Leave it."""
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self.lifted)
        Pretended.current = self.outer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        return self.run(func, args, kwargs or {})

    def hold(self, real: Tensor) -> Shadow:
        """Put a tensor on the device."""
        with _disable_current_modes():  # it is no copy that a run makes
            return Shadow(real if self.values else real.to("meta"), self.device)

    def move(self, model: nn.Module) -> nn.Module:
        """Put weights and buffers of a model on the device; tensors that it keeps elsewhere stay where they are."""
        moved: dict[int, nn.Parameter] = {}
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is not None and not isinstance(weight, Shadow):
                    if id(weight) not in moved:
                        moved[id(weight)] = nn.Parameter(self.hold(weight.detach()), weight.requires_grad)
                    module._parameters[name] = moved[id(weight)]
            for name, buffer in module._buffers.items():
                if buffer is not None and not isinstance(buffer, Shadow):
                    module._buffers[name] = self.hold(buffer)
        return model

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:  # noqa: C901
        """Compute on what the tensors hold, after a look at where they are."""
        if func is torch.ops.prim.device.default:
            return args[0].where
        tensors = list(tensors_in((args, *kwargs.values())))
        here = [t for t in tensors if isinstance(t, Shadow)]
        away = [t for t in tensors if not isinstance(t, Shadow)]
        packet = func.overloadpacket
        asked = kwargs.get("device")
        if packet in COPIES and (asked is not None or (away and packet is not aten._to_copy)):
            return self.copy(func, packet, args, kwargs)
        if not here and asked is not None and torch.device(asked).type == self.device.type:
            return self.wrapped(func(*args, **self.inside(kwargs)))
        if not here:
            return func(*args, **kwargs)
        if packet in MASKED and any(t.ndim for t in away):  # an index of the host is copied over
            self.uploads[self.place(func)] += 1
            away = [t for t in away if t.dtype != torch.int64]
        self.check(func, away)
        if packet is aten._fused_sdp_choice:
            return 0  # the plain formula, which is made of operations that can be looked at
        if packet in READS or (packet in MASKED and masked(args)):
            self.waits[self.place(func)] += 1
        if packet is aten.repeat_interleave and kwargs.get("output_size") is None and isinstance(args[0], Tensor):
            self.waits[self.place(func)] += 1
        if not self.values and packet in READS:
            return self.unknown(packet, here[0])
        if asked is not None and torch.device(asked).type != self.device.type:
            return func(*self.inside(args), **{**self.inside(kwargs), "device": asked})
        inner = self.inside(args)
        if packet in (aten._softmax, aten._log_softmax) and args[2]:  # a mixed precision that only GPUs have
            inner = [inner[0].float(), args[1], False]
        found = func(*inner, **self.inside(kwargs))
        return kwargs.get("out", args[0]) if writes(func) else self.wrapped(found)

    def check(self, func: Any, away: list[Tensor]) -> None:
        """Refuse tensors of the host beside those of the device; numbers in pointwise operations are fine."""
        takes_numbers = torch.Tag.pointwise in func.tags or func.overloadpacket in {*MASKED, aten.fill_}
        if any(t.ndim or not takes_numbers for t in away):
            found = next(t for t in away)
            raise RuntimeError(
                f"{func} mixes devices: {self.device} and {found.device} {tuple(found.shape)} at {self.place(func)}"
            )

    def copy(self, func: Any, packet: Any, args: Any, kwargs: Any) -> Any:
        """Copy between the host and the device, or within one of them."""
        if packet is aten._to_copy:
            source, goal = args[0], torch.device(kwargs["device"]).type == self.device.type
        else:
            goal, source = isinstance(args[0], Shadow), args[1]
        from_here = isinstance(source, Shadow)
        blocking = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
        if goal != from_here and (from_here or blocking):
            (self.waits if from_here else self.uploads)[self.place(func)] += 1
        real = self.inside(source)
        if not goal and real.device.type == "meta":
            real = torch.zeros(real.shape, dtype=real.dtype)
        if packet is not aten._to_copy:
            target = self.inside(args[0])
            func(target, real if target.device.type != "meta" else real.to("meta"))
            return args[0]
        found = func(real, **{**kwargs, "device": self.inner if goal else kwargs["device"]})
        return Shadow(found, self.device) if goal else found

    @property
    def inner(self) -> torch.device:
        """Return where values are held."""
        return torch.device("cpu" if self.values else "meta")

    def inside(self, tree: Any) -> Any:
        """Replace tensors by what they hold, and the device by where that is."""
        if isinstance(tree, Shadow):
            return tree.held
        if isinstance(tree, torch.device):
            return self.inner if tree.type == self.device.type else tree
        if isinstance(tree, list | tuple):
            return type(tree)([self.inside(x) for x in tree])
        return {k: self.inside(v) for k, v in tree.items()} if isinstance(tree, dict) else tree

    def wrapped(self, tree: Any) -> Any:
        """Put results on the device."""
        if isinstance(tree, Tensor):
            return tree if isinstance(tree, Shadow) else Shadow(tree, self.device)
        return type(tree)([self.wrapped(x) for x in tree]) if isinstance(tree, list | tuple) else tree

    @staticmethod
    def unknown(packet: Any, tensor: Tensor) -> Any:
        """Answer a question about values where there are none: zero, finite."""
        if packet in (aten._local_scalar_dense, aten.is_nonzero):
            return False if tensor.dtype == torch.bool else (0.0 if tensor.is_floating_point() else 0)
        raise RuntimeError(f"{packet} asks for values, and shapes alone are computed here")

    @staticmethod
    def place(func: Any) -> str:
        """Return the line of our code that is running, and the operation."""
        frame = sys._getframe(1)
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if ROOT in path.parents and "tests" not in path.parts and ".venv" not in path.parts:
                return f"{path.relative_to(ROOT)}:{frame.f_lineno} {func.overloadpacket.__name__}"
            frame = frame.f_back
        return f"backward pass {func.overloadpacket.__name__}"


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """Walk over the tensors among arguments."""
    for x in tree:
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, list | tuple):
            yield from tensors_in(x)


@cache
def writes(func: Any) -> bool:
    """Return whether an operation returns one of its arguments, changed."""
    return any(r.alias_info is not None and r.alias_info.is_write for r in func._schema.returns)


def masked(args: Any) -> bool:
    """Return whether an index is a mask, whose true entries must be counted."""
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])


@contextmanager
def autocast(dtype: torch.dtype | None) -> Iterator[None]:
    """Autocast as on a GPU; torch's own context switches itself off where none is."""
    if dtype is None:
        yield
        return
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
