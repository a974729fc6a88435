"""The machine of a run: its device, memory and energy counter, and what to write down of them."""

import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from scta_lite.checks import device as device
from scta_lite.checks import is_out_of_memory as is_out_of_memory

from scta_lab.base.files import in_clone

try:
    import pynvml
except ImportError:  # the extra "gpu" brings it
    pynvml = None

# How a control group names its memory's limit, its use, and the file cache in that use.
GROUP_FILES = {
    "": ("max", "current", "inactive_file"),  # version 2
    "memory": ("limit_in_bytes", "usage_in_bytes", "total_inactive_file"),  # version 1
}


def name(on: torch.device) -> str:
    """The GPU's name, or the processor's with the cores that this process may use."""
    if on.type == "cuda":
        return _properties(on).name.removeprefix("NVIDIA ")
    model = _value("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
    model = re.sub(r"\((R|TM)\)|\b(CPU|Processor)\b", "", model)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{' '.join(model.split())}, {cores} cores"


def slug(on: torch.device) -> str:
    """The machine's name as a folder's: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name(on).lower()).strip("-")


def host(on: torch.device) -> dict:
    """Threads, memory (bytes), versions, commit: what a reader needs to make sense of a time."""
    on_gpu = on.type == "cuda"
    packages = ("scta_lite", "torch", "numpy", "pandas")
    return {
        "threads": torch.get_num_threads(),
        "total_memory_bytes": _properties(on).total_memory if on_gpu else _installed_memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "heap": {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")},
        "python": platform.python_version(),
        **{package: _version(package) for package in packages},
        "cuda": torch.version.cuda if on_gpu else None,
        "card": str(_properties(on).uuid)[:8] if on_gpu else None,  # which of several of one name
        "commit": _commit(),
    }


def now() -> str:
    """The UTC date and time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def free_memory(on: torch.device) -> int:
    """Bytes that a new process could take: of the GPU, or of the machine and its control groups.

    Of a GPU the driver is asked (nvidia-ml-py). To ask torch makes a context on it, which takes 0.3
    to 0.6 GB there for as long as this process lives.
    """
    if on.type == "cuda":
        memory = _ask_driver(on, "nvmlDeviceGetMemoryInfo")
        return memory.free if memory else torch.cuda.mem_get_info(on)[0]
    available = _bytes("/proc/meminfo", "MemAvailable")
    bounds = [_installed_memory(), *_free_in_groups()]
    return min(bounds if available is None else [available, *bounds])


def resident_memory() -> int:
    """Bytes that this process holds now; on macOS, which does not say, the most it ever held."""
    return _process_bytes("VmRSS")


def peak_memory(on: torch.device) -> tuple[int, str]:
    """Bytes at the peak since the last reset, or the start; and of what they are."""
    if on.type == "cuda":
        return torch.cuda.max_memory_allocated(on), "CUDA allocator"
    return _process_bytes("VmHWM"), "process RSS"


def reset_peak_memory(on: torch.device) -> None:
    """Forgets the peak so far; the process's can be forgotten on Linux alone."""
    if on.type == "cuda":
        torch.cuda.reset_peak_memory_stats(on)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def energy_joules(on: torch.device) -> float | None:
    """The GPU's energy counter, in joules since its driver was loaded; None where there is none."""
    millijoules = _ask_driver(on, "nvmlDeviceGetTotalEnergyConsumption")
    return None if millijoules is None else millijoules / 1e3


def ceilings(on: torch.device, repeats: int = 9) -> dict[str, float]:
    """The device's bandwidth (bytes a second, read and written) and matrix rate (FLOPs a second).

    In float32, with the threads and the precision that are set; the best of `repeats`, as a ceiling
    is. The bandwidth is the better of reading a large array and changing it in place: a copy also
    reads, unseen, the lines that it overwrites.
    """
    from torch.utils.benchmark import Timer  # here alone: it takes a while to import

    large = torch.ones(1 << 26, device=on)  # 256 MB: more than a cache holds
    square = torch.ones(2048, 2048, device=on)

    def seconds(run: Callable[[], object]) -> float:
        timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
        calls = 10 if on.type == "cuda" else 1  # one would be short beside its launch
        return min(timer.timeit(calls).mean for _ in range(repeats))

    size = large.numel() * large.element_size()
    in_place = 2 * size / seconds(lambda: large.add_(1))
    read = size / seconds(large.sum)
    products = 2 * len(square) ** 3 / seconds(lambda: square @ square)
    return {"bytes_per_s": max(in_place, read), "flops_per_s": products}


def _ask_driver(on: torch.device, question: str) -> Any:
    """What NVIDIA's driver says of torch's GPU; None where there is none, or no nvidia-ml-py."""
    if on.type != "cuda" or pynvml is None:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{_properties(on).uuid}")
        return getattr(pynvml, question)(handle)
    except pynvml.NVMLError:
        return None


def _properties(on: torch.device) -> Any:
    """Name, memory and UUID of a GPU: known without a context, and after a kernel that failed."""
    return torch.cuda.get_device_properties(on)


def _process_bytes(key: str) -> int:
    """Bytes that Linux tells of this process under the key; elsewhere the peak since its start."""
    value = _bytes("/proc/self/status", key)
    if value is not None:
        return value
    # Not asked first: it gives the parent's peak, if that was larger when this process was spawned.
    unit = 1 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _free_in_groups() -> list[int]:
    """Limit minus use of each control group of this process; its file cache gives way."""
    free = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, controller, path = line.split(":", 2)
        if controller not in GROUP_FILES:
            continue
        limit_name, use_name, cache_name = GROUP_FILES[controller]
        group = Path("/sys/fs/cgroup", controller, path.strip("/"))
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):  # ValueError: "max", no limit
                limit = int((folder / f"memory.{limit_name}").read_text())
                used = int((folder / f"memory.{use_name}").read_text())
                cached = int(_value(folder / "memory.stat", cache_name) or 0)
                free.append(limit - used + cached)
    return free


def _bytes(path: str, key: str) -> int | None:
    """The bytes that a line such as "VmRSS: 9 kB" gives; None without one."""
    value = _value(path, key)
    return int(value.split()[0]) << 10 if value else None


def _value(path: str | Path, key: str) -> str | None:
    """What stands after the key in the first line that begins with it; None without one."""
    match = re.search(rf"^{key}\s*[:\s]\s*(.*)$", _read(path), re.M)
    return match[1] if match else None


def _read(path: str | Path) -> str:
    """The file's text; empty where there is no such file, as outside Linux."""
    with suppress(OSError):
        return Path(path).read_text()
    return ""


def _installed_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the code that ran, with "+" if files differ from it; None outside a clone."""

    def git(*words: str) -> str:
        command = ["git", "-C", in_clone(), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "scta_lite", "scta_lab")
        commit = git("rev-parse", "--short=12", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+" if changes else commit
