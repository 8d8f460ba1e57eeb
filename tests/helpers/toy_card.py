"""A second device for tests: tensors on "toy" lie in ordinary memory and refuse to meet the CPU's.

torch lets Python register a device of its own (PrivateUse1). This one computes every operation on
the CPU with the same kernels, so a run on it must give the same numbers bit for bit, and raises
where a real card would: if an operation gets tensors of both devices, or a generator of the CPU.
Stricter than CUDA, it also refuses indices that lie on the CPU. Scalars (tensors without
dimensions) of the CPU are allowed, as on CUDA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

NAME = "toy"
DEVICE = torch.device("privateuseone", 0)
_COPIES = {"aten::copy_", "aten::_to_copy"}


class ToyTensor(Tensor):
    """A tensor on the device; `inner` has its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> ToyTensor:
        with torch.inference_mode(False):  # a view of a weight is not an inference tensor
            return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls,
                inner.size(),
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                device=DEVICE,
            )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __repr__(self, **_: object) -> str:
        return f"ToyTensor({self.inner!r})"

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(op, args, kwargs or {})


def _run(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation on the CPU; wrap what it returns, unless it is a copy to the CPU."""
    name = op._schema.name
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    mine = [x for x in given if isinstance(x, ToyTensor)]
    others = [x for x in given if not isinstance(x, ToyTensor) and x.dim()]
    if mine and others and name not in _COPIES:
        raise RuntimeError(
            f"{name}: expected all tensors to be on the same device, but found at least two, "
            f"{NAME} {tuple(mine[0].shape)} and cpu {tuple(others[0].shape)}"
        )
    if isinstance(kwargs.get("generator"), torch.Generator):
        raise RuntimeError(f"{name}: expected a '{NAME}' device type for generator, found 'cpu'")
    stays = bool(mine)
    if (target := kwargs.get("device")) is not None:
        stays, kwargs = torch.device(target).type == NAME, kwargs | {"device": "cpu"}
    found = op(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if not stays or (name == "aten::copy_" and not isinstance(args[0], ToyTensor)):
        return found
    known = {id(x.inner): x for x in mine}  # of operations in place

    def outer(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return known[id(x)] if id(x) in known else ToyTensor(x)

    return tree_map(outer, found)


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, ToyTensor) else x


class _Module(backend_registration._DummyBackendModule):  # type: ignore[misc]
    """`torch.toy`: what autocast and `fork_rng` ask of a device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        """There is nothing to set: all numbers are drawn on the CPU."""


def _empty(
    size: list[int], dtype: torch.dtype | None = None, *_: Any, **settings: Any
) -> ToyTensor:
    form = settings.get("memory_format")
    return ToyTensor(torch.ops.aten.empty.memory_format(size, dtype=dtype, memory_format=form))


def _empty_strided(
    size: list[int], stride: list[int], dtype: torch.dtype | None = None, *_: Any, **__: Any
) -> ToyTensor:
    return ToyTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _inner(target).copy_(_inner(source))
    return target


_AUTOCAST = "AutocastPrivateUse1"
_REDUCED = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "conv2d", "conv3d")
"""Operations that autocast computes in fewer bits, as on the other devices."""


def _reduced(name: str) -> Callable[..., Tensor]:
    """Return an operation as autocast runs it: factors cast to the type of autocast."""
    op = getattr(torch.ops.aten, name)

    def cast(x: Any) -> Any:
        floats = isinstance(x, Tensor) and x.dtype == torch.float32
        return x.to(torch.get_autocast_dtype(NAME)) if floats else x

    def run(*args: Any, **settings: Any) -> Tensor:
        without = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
        with torch._C._ExcludeDispatchKeyGuard(without):
            return op(*tree_map(cast, args), **tree_map(cast, settings))

    return run


_LIBRARY: list[torch.library.Library] = []
_FACTORIES: dict[str, Callable[..., Tensor]] = {
    "empty.memory_format": _empty,
    "empty_strided": _empty_strided,
    "_copy_from": _copy_from,
}


def install() -> torch.device:
    """Register the device in this process, once, and return it."""
    if not _LIBRARY:
        backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
        library = torch.library.Library("aten", "IMPL")
        for name, function in _FACTORIES.items():
            library.impl(name, function, "PrivateUse1")
        for name in _REDUCED:
            library.impl(name, _reduced(name), _AUTOCAST)
        rest = torch.library.Library("_", "IMPL")
        rest.fallback(torch.library.fallthrough_kernel, _AUTOCAST)
        _LIBRARY.extend([library, rest])
    return torch.device(NAME, 0)
