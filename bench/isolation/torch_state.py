"""State of torch: one line for each kind."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch.nn.modules import module as modules
from torch.utils import _python_dispatch as dispatch
from torch.utils import deterministic

from .aspect import Aspect, contents

DEVICES = ("cpu", "cuda")
_C: Any = torch._C
_FLAGS: tuple[tuple[Any, str], ...] = (
    (torch.backends.cudnn, "enabled"),
    (torch.backends.cudnn, "benchmark"),
    (torch.backends.cudnn, "deterministic"),
    (torch.backends.cudnn, "allow_tf32"),
    (torch.backends.cuda.matmul, "allow_tf32"),
    (torch.backends.mkldnn, "enabled"),
    (torch.backends.mkldnn, "deterministic"),
)
_KERNELS = ("flash_sdp", "mem_efficient_sdp", "math_sdp", "cudnn_sdp")


def _global_hooks(home: Any) -> list[str]:
    return [name for name, value in vars(home).items() if name.startswith("_global") and isinstance(value, dict)]


def _modes() -> list[Any]:
    return [_C._get_function_stack_at(i) for i in range(_C._len_torch_function_stack())]


def _restore_modes(before: list[Any]) -> None:
    torch.set_default_device(None)
    while _C._len_torch_function_stack():
        _C._pop_torch_function_stack()
    for mode in before:
        _C._push_on_torch_function_stack(mode)


def _restore_dispatch(before: list[Any]) -> None:
    while len(dispatch._get_current_dispatch_mode_stack()) > len(before):
        dispatch._pop_mode()


def _autocast() -> tuple:
    nesting = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    kinds = [(torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in DEVICES]
    return nesting, torch.is_autocast_cache_enabled(), *kinds


def _restore_autocast(before: tuple) -> None:
    nesting, cache, *kinds = before
    while _autocast()[0] > nesting:
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(cache)
    for device, (enabled, dtype) in zip(DEVICES, kinds, strict=True):
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)


def _deterministic() -> tuple:
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    fill: Any = deterministic
    return torch.are_deterministic_algorithms_enabled(), warns, fill.fill_uninitialized_memory


def _restore_deterministic(before: tuple) -> None:
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    fill: Any = deterministic
    fill.fill_uninitialized_memory = before[2]


def _backends() -> tuple:
    flags = [getattr(home, name) for home, name in _FLAGS]
    kernels = [getattr(torch.backends.cuda, f"{name}_enabled")() for name in _KERNELS]
    return flags, kernels, torch.backends.mha.get_fastpath_enabled(), torch.get_float32_matmul_precision()


def _restore_backends(before: tuple) -> None:
    flags, kernels, fast_path, precision = before
    for (home, name), value in zip(_FLAGS, flags, strict=True):
        if getattr(home, name) != value:
            setattr(home, name, value)
    for name, value in zip(_KERNELS, kernels, strict=True):
        getattr(torch.backends.cuda, f"enable_{name}")(value)
    torch.backends.mha.set_fastpath_enabled(fast_path)
    torch.set_float32_matmul_precision(precision)


def _flushes_denormals() -> bool:
    return bool(torch.tensor([5e-324], dtype=torch.float64, device="cpu").mul_(1) == 0)


def _hooks_on_saved_tensors() -> Any:
    return _C._autograd._top_saved_tensors_default_hooks(True)


_optimisers = importlib.import_module("torch.optim.optimizer")

TORCH: tuple[Aspect, ...] = (
    Aspect("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Aspect("the default device or another function mode", _modes, _restore_modes),
    Aspect("a dispatch mode", dispatch._get_current_dispatch_mode_stack, _restore_dispatch),
    Aspect("grad mode", torch.is_grad_enabled, _C._set_grad_enabled),
    Aspect("inference mode", torch.is_inference_mode_enabled, None),
    Aspect("autocast", _autocast, _restore_autocast),
    Aspect("anomaly detection", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    Aspect("hooks on saved tensors", _hooks_on_saved_tensors, None),
    Aspect("global module hooks", *contents(modules, _global_hooks(modules))),
    Aspect("global optimiser hooks", *contents(_optimisers, _global_hooks(_optimisers))),
    Aspect("deterministic flags", _deterministic, _restore_deterministic),
    Aspect("flags of torch's backends", _backends, _restore_backends),
    Aspect("the number of torch's threads", torch.get_num_threads, torch.set_num_threads),
    Aspect("the flushing of denormal numbers", _flushes_denormals, torch.set_flush_denormal),
)
