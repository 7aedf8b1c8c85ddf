"""What a benchmark asks of its device: times, waits, launches, memory."""

from __future__ import annotations

import gc
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from counting import file_of

MEGA = 2**20


class Machine:
    """The device, and what is asked of it. A CPU stands in for it to try the script: there are no
    waits, launches or peaks of memory then, and they are ``None``."""

    def __init__(self, device: str) -> None:
        self.device, self.gpu = device, device == "cuda"

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def mark(self) -> Any:
        """A moment of the device's own clock."""
        if not self.gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: Any, end: Any) -> float:
        """Milliseconds from one moment to another; call ``wait`` before."""
        return start.elapsed_time(end) if self.gpu else 1e3 * (end - start)

    def waits(self, call: Callable[[], Any]) -> Counter[str] | None:
        """Where the host waited, and how often."""
        if not self.gpu:
            call()
            return None
        seen: Counter[str] = Counter()

        def see(message: Any, category: Any, filename: str, lineno: int, *rest: Any) -> None:
            if "synchroniz" in str(message):
                seen[place() or f"{Path(filename).name}:{lineno}"] += 1

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = see
            torch.cuda.set_sync_debug_mode("warn")
            try:
                call()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return seen

    def launches(self, call: Callable[[], Any]) -> int | None:
        """Kernels and copies that the device was given."""
        if not self.gpu:
            call()
            return None
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as seen:
            call()
            self.wait()
        there = [e for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        return sum(not getattr(event, "is_user_annotation", False) for event in there)

    def peak(self, call: Callable[[], Any]) -> float | None:
        """MiB that were allocated at most, beyond what was before."""
        if not self.gpu:
            call()
            return None
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return (torch.cuda.max_memory_allocated() - before) / MEGA

    def empty(self) -> None:
        """Give back what nothing holds any more."""
        gc.collect()
        if self.gpu:
            torch.cuda.empty_cache()


def place() -> str:
    """The line of this library that is at work; "" if there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        if name := file_of(frame.f_code.co_filename):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
