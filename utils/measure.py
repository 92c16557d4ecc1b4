"""Time and memory of what a benchmark runs."""

import itertools
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class Clock:
    """Marks points in time: on CUDA in the device's own queue, so that nothing waits in between; else on the host."""

    def __init__(self, device: torch.device):
        self.stream: torch.cuda.Stream | None = None
        self.marks: list[Any] = []
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            self.stream = torch.cuda.current_stream(device)
        self.mark()

    def mark(self) -> None:
        if self.stream is None:
            self.marks.append(time.perf_counter())
        else:
            self.marks.append(self.stream.record_event(torch.cuda.Event(enable_timing=True)))

    def durations(self) -> list[float]:
        """Seconds between the marks."""
        if self.stream is None:
            return [end - start for start, end in itertools.pairwise(self.marks)]
        self.marks[-1].synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in itertools.pairwise(self.marks)]


def resident(name: str) -> float:
    """Bytes that this process holds (VmRSS) or held at its peak (VmHWM); nan where the system does not tell.

    resource.getrusage would do for the peak, but its figure also covers the process that this one was started from.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((1024 * float(line.split()[1]) for line in lines if line.startswith(name)), float("nan"))


def peak_memory(device: torch.device, before: float) -> float:
    """Bytes that the device allocated at its peak or, on the CPU, the process's resident memory beyond `before`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident("VmHWM") - before


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def operations(function: Callable, *inputs: Any) -> int:
    """Floating-point operations of function(*inputs): of convolutions, matrix products and attention alone.

    A multiplication with its addition counts as two.
    """
    # Fused attention kernels are not counted on every device; this way attention is two matrix products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function(*inputs)
    return counter.get_total_flops()
