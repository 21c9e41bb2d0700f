"""What the machine is, and the limits that nothing on it can beat: its rate of products, and how fast it copies."""

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version

import torch

from benchmarks import results
from benchmarks.gpu.machine import Machine

PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "numpy")
WARM, TIMED = 3, 10


def limits(machine: Machine) -> None:
    """Report names and versions, the rate of bf16 products, and the bandwidths of copies."""
    machine.report("name", torch.cuda.get_device_name() if machine.device == "cuda" else results.cpu())
    if machine.device == "cuda":
        machine.report("gpu_bytes", torch.cuda.get_device_properties(0).total_memory)
        machine.report("cuda", torch.version.cuda)
    machine.report("cores", len(os.sched_getaffinity(0)))
    machine.report("host_bytes", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    machine.report("python", platform.python_version())
    for package in PACKAGES:
        machine.report(package, version(package))

    size, device = machine.sizes.matrix, machine.device
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    machine.report("matmul_rate", 2 * size**3 / seconds(machine, lambda: left @ right))

    source = torch.empty(machine.sizes.copied // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    machine.report("copy_bandwidth", 2 * source.numel() / seconds(machine, lambda: target.copy_(source)))
    part = torch.empty(machine.sizes.copied // 16, dtype=torch.uint8)
    machine.report("from_pageable_bandwidth", part.numel() / seconds(machine, lambda: target[: len(part)].copy_(part)))
    if device == "cuda":
        pinned = part.pin_memory()
        taken = seconds(machine, lambda: target[: len(part)].copy_(pinned, non_blocking=True))
        machine.report("from_pinned_bandwidth", part.numel() / taken)


def seconds(machine: Machine, work: Callable[[], object]) -> float:
    """Return the mean time of `work` over several rounds, after some that aren't counted."""
    for _ in range(WARM):
        work()
    machine.synchronize()
    started = time.perf_counter()
    for _ in range(TIMED):
        work()
    machine.synchronize()
    return (time.perf_counter() - started) / TIMED
