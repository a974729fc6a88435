"""The machine that a run is on: its device, its memory, its energy counter, and what to write down about them."""

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

from scta_lab.base.files import in_clone

try:
    import pynvml
except ImportError:  # the extra "gpu" brings it
    pynvml = None

_VERSION_2 = (
    "max",
    "current",
    "inactive_file",
)  # of a control group's memory: limit, use, and cache in it


def name(on: torch.device) -> str:
    """The GPU's name, or the processor's with its cores."""
    if on.type == "cuda":
        return _properties(on).name.removeprefix("NVIDIA ")
    model = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    model = " ".join(re.sub(r"\((R|TM)\)|\b(CPU|Processor)\b", "", model).split())
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )  # what a job may use
    return f"{model}, {cores} cores"


def slug(on: torch.device) -> str:
    """The machine's name as a folder's: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name(on).lower()).strip("-")


def host(on: torch.device) -> dict:
    """Threads, memory (bytes), versions and the commit: what a reader needs to make sense of a time."""
    packages = ("scta_lite", "torch", "numpy", "pandas")
    return {
        "threads": torch.get_num_threads(),
        "total_memory_bytes": _properties(on).total_memory
        if on.type == "cuda"
        else _installed_memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "heap": {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")},
        "python": platform.python_version(),
        **{package: _version(package) for package in packages},
        "cuda": torch.version.cuda if on.type == "cuda" else None,
        "card": str(_properties(on).uuid)[:8]
        if on.type == "cuda"
        else None,  # of several of one name, which
        "commit": _commit(),
    }


def now() -> str:
    """The UTC date and time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def free_memory(on: torch.device) -> int:
    """Bytes that a new process could take: of the GPU, or of the machine and of the control group's limit.

    Of a GPU the driver is asked (nvidia-ml-py): torch would make a context to ask from, which takes 0.3 to 0.6 GB there
    for as long as this process lives.
    """
    if on.type == "cuda":
        told = _of_driver(on, "nvmlDeviceGetMemoryInfo")
        return told.free if told else torch.cuda.mem_get_info(on)[0]
    free = [_installed_memory()]
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free.append(
            next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
        )
    return min([*free, *_group_free()])


def resident_memory() -> int:
    """Bytes of memory that this process holds now; where the system does not tell (macOS), the most it ever held."""
    return _of_process("VmRSS")


def peak_memory(on: torch.device) -> tuple[int, str]:
    """Bytes, and of what: the allocator's peak on a GPU, else the process's; since the last reset, or the start."""
    if on.type == "cuda":
        return torch.cuda.max_memory_allocated(on), "CUDA allocator"
    return _of_process("VmHWM"), "process RSS"


def _of_process(key: str) -> int:
    """Bytes that Linux tells of this process under the key; elsewhere the peak since its start."""
    with suppress(
        OSError, StopIteration
    ):  # getrusage's would be the parent's, if that was larger when it spawned us
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))
    unit = 1 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory(on: torch.device) -> None:
    """Forgets the peak so far; the process's can be forgotten on Linux alone."""
    if on.type == "cuda":
        torch.cuda.reset_peak_memory_stats(on)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def energy_joules(on: torch.device) -> float | None:
    """The GPU's energy counter, in joules since the driver was loaded; None where there is none (nvidia-ml-py)."""
    told = _of_driver(on, "nvmlDeviceGetTotalEnergyConsumption")
    return told / 1e3 if told is not None else None


def _of_driver(on: torch.device, question: str) -> Any:
    """What NVIDIA's driver says of the GPU that torch means; None where there is none, or no nvidia-ml-py."""
    if on.type != "cuda" or pynvml is None:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{_properties(on).uuid}")
        return getattr(pynvml, question)(handle)
    except pynvml.NVMLError:
        return None


def _properties(on: torch.device) -> Any:
    """Name, memory and UUID of a GPU: known without a context on it, and after a kernel that failed."""
    return torch.cuda.get_device_properties(on)


def ceilings(on: torch.device, repeats: int = 9) -> dict[str, float]:
    """The device's bandwidth (bytes a second, read and written) and matrix rate (FLOPs a second), in float32.

    With the threads and the precision that are set; the best of `repeats`, as a ceiling is. The bandwidth is the better
    of reading a large array and changing it in place: a copy also reads, unseen, the lines that it overwrites.
    """
    from torch.utils.benchmark import Timer  # here alone: it takes a while to import

    large = torch.ones(1 << 26, device=on)  # 256 MB: more than a cache holds
    square = torch.ones(2048, 2048, device=on)

    def seconds(run: Callable[[], object]) -> float:
        timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
        at_once = 10 if on.type == "cuda" else 1  # where one is short beside its launch
        return min(timer.timeit(at_once).mean for _ in range(repeats))

    size = large.numel() * large.element_size()
    return {"bytes_per_s": max(2 * size / seconds(lambda: large.add_(1)), size / seconds(large.sum)),
            "flops_per_s": 2 * len(square) ** 3 / seconds(lambda: square @ square)}  # fmt: skip


def _group_free() -> list[int]:
    """Limit less use of each control group of this process; file cache, which gives way, is not use."""
    found = []
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):  # version 2, version 1
                continue
            root = Path("/sys/fs/cgroup", controllers)
            names = (
                ("limit_in_bytes", "usage_in_bytes", "total_inactive_file")
                if controllers
                else _VERSION_2
            )
            for folder in (root / path.strip("/"), *(root / path.strip("/")).parents):
                with suppress(OSError, ValueError):  # ValueError: "max", no limit
                    limit, used = (
                        int((folder / f"memory.{name}").read_text()) for name in names[:2]
                    )
                    found.append(limit - used + _cached(folder, names[2]))
    return found


def _cached(folder: Path, name: str) -> int:
    with suppress(OSError):
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(stat.get(name, 0))
    return 0


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
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def is_out_of_memory(error: Exception) -> bool:
    """True too for the plain RuntimeError that torch raises on a CPU, and for cuBLAS's and cuDNN's."""
    words = ("not enough memory", "can't allocate memory", "out of memory", "alloc_failed")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)
