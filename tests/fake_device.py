"""What only a GPU would notice, noticed without one: tensors on two devices, and waiting in the middle of a step.

Networks, losses and training steps run on torch's fake tensors, which have a device, a shape and a dtype but no values.
What has to read values runs on a stand-in for a device, which computes on the CPU.
"""

import contextlib

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from assembly.recipe import build_network

NEW_TORCH = pytest.mark.skipif(
    torch.__version__ < torch.torch_version.TorchVersion("2.14") and not torch.cuda.is_available(),
    reason="this torch asks the driver of a device that is only pretended; 2.14 does not",
)
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
INDEXING = ("aten::index", "aten::_unsafe_index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


class Waited(AssertionError):
    """The host would wait for the device."""


class NoWaiting(TorchDispatchMode):
    """Refuses operators for which the host waits until the device has done all that was queued before.

    They are those whose result's value or size the host needs, and copies between host and device that do not say
    non_blocking. A number of the CPU's (a tensor without dimensions) travels with the kernel's other arguments.

    device   "cuda", or "cpu" to take the CPU for the device
    """

    def __init__(self, device: str = "cuda"):
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.prim.device.default:  # two in three calls
            return device_of(args[0])
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if any(map(self.there, tensors)) or torch.device(kwargs.get("device") or "cpu").type == self.device:
            self.check(func, args, kwargs)
        if func._schema.name == "aten::_fused_sgd_":  # fake tensors do not know it; it changes its arguments only
            assert tensors and all(map(self.there, tensors))
            return None
        return func(*args, **kwargs)

    def there(self, x: torch.Tensor) -> bool:
        return device_of(x).type == self.device

    def check(self, func, args, kwargs) -> None:
        name, indices = func._schema.name, []
        if name in INDEXING:
            indices = [x for x in args[1] if x is not None]
            if any(x.dtype in (torch.bool, torch.uint8) for x in indices):
                raise Waited(f"{name} by a mask, of which the size has to be known")
            if any(device_of(x) != device_of(args[0]) for x in indices):
                raise Waited(f"{name} of one device by indices of another")
        if torch.Tag.data_dependent_output in func.tags:
            raise Waited(f"{name} reads a value")
        if torch.Tag.dynamic_output_shape in func.tags and not indices:
            raise Waited(f"{name} has a result of which the size has to be known")
        if name in ("aten::_to_copy", "aten::copy_"):
            source, target, blocking = device_of(args[0]), kwargs.get("device"), not kwargs.get("non_blocking")
            if name == "aten::copy_":
                source, target, blocking = device_of(args[1]), device_of(args[0]), not (args[2:] or [False])[0]
            if blocking and target is not None and source.type != torch.device(target).type:
                raise Waited(f"{name} from {source} to {target}, blocking")


def device_of(x: torch.Tensor) -> torch.device:
    return getattr(x, "fake_device", None) or x.device  # a fake tensor's `device` is an operator of its own


@contextlib.contextmanager
def faked(cfg=None, device=CUDA):
    """Inside, tensors are fake, and the device must not be waited for.

    cfg      gives the network of this configuration, on the device. What is neither its parameter nor its buffer stays
             where it was made
    """
    model = None
    if cfg is not None:
        with torch.device("meta"):  # where nothing is drawn
            model = build_network(cfg, classes=395)
    with FakeTensorMode(), NoWaiting(device.type):
        yield model and model._apply(lambda x: empty(x.shape, device, x.dtype))


def empty(shape, device=CUDA, dtype=torch.float32):
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return torch.empty(tuple(shape), dtype=dtype, device=device, memory_format=layout)


class Elsewhere(torch.Tensor):
    """A tensor that says it is on a CUDA device; its values are held on the CPU."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=CUDA
        )

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})

    def tolist(self):
        return self.cpu().tolist()


class StandIn(FakeTensorMode):
    """Inside, "cuda" is a device that computes, on the CPU; tensors of both devices do not mix."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


class TwoDevices(AssertionError):
    """An operator got tensors of the device and of the CPU."""


def computed(func, args, kwargs):
    """The operator's result, by the rules of CUDA: a number of the CPU's mixes with all, and so do indices from there.
    """
    name, tensors = func._schema.name, [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = any(isinstance(x, Elsewhere) for x in tensors)
    if name not in ("aten::copy_", "aten::_to_copy"):
        first = tensors[0] if tensors else None
        mixing = tensors if name not in INDEXING or not isinstance(first, Elsewhere) else [first, *args[2:3]]
        if there and any(not isinstance(x, Elsewhere) and x.dim() for x in mixing):
            raise TwoDevices(f"{name} of tensors on {[str(x.device) for x in tensors]}")
    if kwargs.get("device") is not None:
        there, kwargs = torch.device(kwargs["device"]).type == "cuda", {**kwargs, "device": CPU}
    held = tree_map(lambda x: x.held if isinstance(x, Elsewhere) else x, (args, kwargs))
    result = func(*held[0], **held[1])
    returned = func._schema.returns
    if returned and returned[0].alias_info is not None and returned[0].alias_info.is_write:  # in place
        return args[0]
    return tree_map(lambda x: Elsewhere(x) if isinstance(x, torch.Tensor) else x, result) if there else result
