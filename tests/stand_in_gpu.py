"""A stand-in for a GPU: tensors that say they lie on cuda:0, compute on the CPU, and refuse what a GPU's would.

They take no tensor of the CPU beside them, and NumPy can't read them. So a machine without a GPU sees whether a job
leaves anything on the wrong device. Memory, speed, kernels and autocast are not those of a GPU.
"""

import sys

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
GPU = torch.device("cuda", 0)
# As C++ has to see it, since a build without CUDA can't guard a device of CUDA's.
INSIDE = torch.device("privateuseone", 0)
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
COPYING = {aten._to_copy, aten.copy_}


class OnGPU(torch.Tensor):
    """A tensor whose numbers are in `on_cpu`."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device, is_cuda, is_cpu = GPU, True, False

    @staticmethod
    def __new__(cls, on_cpu):
        numbers = 1 + sum((size - 1) * stride for size, stride in zip(on_cpu.shape, on_cpu.stride(), strict=True))
        numbers = on_cpu.storage_offset() + max(numbers, 1)
        layout = torch.empty(numbers, dtype=on_cpu.dtype, device="meta")
        layout = layout.as_strided(on_cpu.shape, on_cpu.stride(), on_cpu.storage_offset())
        made = torch.Tensor._make_subclass(cls, layout, False, dispatch_device=True, device_for_backend_keys=INSIDE)
        made.on_cpu = on_cpu.detach()
        return made

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, other):
        torch._C.TensorBase.data.__set__(self, other)
        self.on_cpu = other.on_cpu

    def data_ptr(self):
        return self.on_cpu.data_ptr()

    def untyped_storage(self):
        return self.on_cpu.untyped_storage()

    def tolist(self):
        return self.on_cpu.tolist()

    def numpy(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, operation, types, arguments=(), named=None):
        return computed(operation, arguments, named or {})


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        return computed(operation, arguments, named or {})


class _Functions(TorchFunctionMode):
    """What C++ would do with a device before it asks the modes."""

    def __torch_function__(self, function, types, arguments=(), named=None):
        named = dict(named or {})
        if function in (torch.tensor, torch.as_tensor) and _is_gpu(named.get("device")):
            del named["device"]
            return function(*arguments, **named).to(GPU)
        if function is torch.Tensor.to:
            if len(arguments) > 1 and isinstance(arguments[1], torch.Tensor):
                return arguments[0].to(arguments[1].device, arguments[1].dtype)
            arguments = tuple(GPU if _is_gpu(argument) else argument for argument in arguments)
            named = {name: GPU if _is_gpu(argument) else argument for name, argument in named.items()}
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            index = arguments[1] if isinstance(arguments[1], tuple) else (arguments[1],)
            index = tuple(torch.tensor(places) if isinstance(places, list) else places for places in index)
            arguments = (arguments[0], index, *arguments[2:])
        return function(*arguments, **named)


def _is_gpu(device):
    if isinstance(device, str):
        return device.split(":")[0] == "cuda"
    return isinstance(device, torch.device) and device.type in (GPU.type, INSIDE.type)


def computed(operation, arguments, named):
    """Return what an operation gives, on the device where a GPU would have it; raises RuntimeError as PyTorch would."""
    if operation is torch.ops.prim.device.default:
        return INSIDE
    kind, device = operation.overloadpacket, named.get("device")
    tensors = [leaf for leaf in tree_leaves((arguments, named)) if isinstance(leaf, torch.Tensor)]
    on_gpu = [tensor for tensor in tensors if isinstance(tensor, OnGPU)]
    if kind is aten._fused_sdp_choice:
        return 0  # the plain way: what it chooses by are kernels
    if kind is aten.is_pinned and on_gpu:
        return False
    if on_gpu and kind not in COPYING:
        _refuse_mixed(operation, arguments, [tensor for tensor in tensors if not isinstance(tensor, OnGPU)])
    if (on_gpu or _is_gpu(device)) and named.get("generator") is not None:
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({operation})")
    to_gpu = _is_gpu(device) if device is not None else bool(on_gpu)
    if kind is aten._pin_memory:
        if on_gpu:
            raise RuntimeError("cannot pin a GPU's tensor; only dense CPU tensors can be pinned")
        return arguments[0].clone()
    on_cpu = named | ({"device": torch.device("cpu")} if _is_gpu(device) else {})
    on_cpu |= {"pin_memory": False} if "pin_memory" in named else {}  # which needs a GPU's driver
    result = operation(*tree_map(_on_cpu, arguments), **tree_map(_on_cpu, on_cpu))
    if kind is aten._to_copy and to_gpu != bool(on_gpu):
        result = result.clone()  # another device never shares memory
    if written := [argument for argument in operation._schema.arguments if argument.is_write]:
        places = {argument.name: number for number, argument in enumerate(operation._schema.arguments)}
        given = [named[one.name] if one.name in named else arguments[places[one.name]] for one in written]
        return None if result is None else given[0] if len(given) == 1 else tuple(given)
    return tree_map(_on_gpu, result) if to_gpu else result


def _refuse_mixed(operation, arguments, others):
    kind, first = operation.overloadpacket, arguments[0]
    if kind in INDEXING and isinstance(first, OnGPU):  # a GPU's tensor can be indexed by those of the CPU
        others = [] if kind is aten.index or isinstance(arguments[2], OnGPU) else [arguments[2]]
    into_cpu = operation._schema.is_mutable and isinstance(first, torch.Tensor) and not isinstance(first, OnGPU)
    if into_cpu or any(tensor.dim() > 0 for tensor in others):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cuda:0 and cpu! ({operation})")


def _on_cpu(value):
    return value.on_cpu if isinstance(value, OnGPU) else value


def _on_gpu(value):
    return OnGPU(value) if isinstance(value, torch.Tensor) and not isinstance(value, OnGPU) else value


def install():
    """Let this process see one GPU, until its end."""
    print("sees a stand-in for a GPU", file=sys.stderr)
    backend_registration._setup_privateuseone_for_python_backend("stand_in")
    facts = {"is_available": True, "device_count": 1, "current_device": 0, "get_device_capability": (9, 0)}
    facts |= {"is_bf16_supported": True, "is_initialized": False}
    actions = ("set_device", "synchronize", "empty_cache", "manual_seed_all", "manual_seed", "_lazy_init")
    for name, value in (facts | dict.fromkeys(actions)).items():
        setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    torch.__future__.set_swap_module_params_on_conversion(True)  # so that tied parameters stay tied, as with CUDA
    _Functions().__enter__()
    _Operations().__enter__()
