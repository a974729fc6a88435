"""Where the project's files are, and the writing of files whole or not at all.

The package is installed with the paper's tables and the figures' style. The notebooks, the stored runs and what the
notebooks found lie in a clone of the repository alone.
"""

import fcntl
import os
import re
import shutil
import socket
import tempfile
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[2]  # in which both packages lie
_CLONE = (_FOLDER / "data" / "paper").is_dir()
ROOT = _FOLDER if _CLONE else Path.cwd()
"""The repository's folder, wherever Python was started; outside a clone the folder in which it was started."""


def in_clone(*parts: str) -> Path:
    """A path in the repository; FileNotFoundError where the package was installed without it."""
    if not _CLONE:
        raise FileNotFoundError(f"{'/'.join(parts)} is not installed: expected a clone of the repository")
    return ROOT.joinpath(*parts)


def temporary(path: Path) -> Path:
    """A hidden name beside the path for what this process has not finished; `tidy` reads the process from it."""
    return path.with_name(f".{path.name}.{os.getpid()}@{socket.gethostname()}.part")


def tidy(folder: Path) -> None:
    """Removes what processes of this machine that are no longer alive left unfinished in the folder."""
    for lock in folder.glob(".*.lock"):
        with _locked(lock):
            pass  # if nobody has it, it goes
    for part in folder.glob(".*.part"):
        found = re.search(r"\.(\d+)@(.+)\.part$", part.name)
        if found and found[2] == socket.gethostname() and not _alive(int(found[1])):
            remove(part)


def remove(part: Path) -> None:
    """The file, or the folder with all that is in it, if it is there."""
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    """Whether the process is there and has not ended: one that nobody waited for is there, but writes no more."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    with suppress(OSError, IndexError):  # there is no /proc but on Linux
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return True


@contextmanager
def alone(path: Path, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Waits until no other process is in here with the same path, or until `stopped()`.

    The lock is the kernel's, on a hidden file beside the path: it ends with its process, however that ends. Where
    there are no locks nobody waits, and what two processes make is the same twice.
    """
    while True:
        with _locked(path.with_name(f".{path.name}.lock")) as mine:
            if mine or stopped():
                yield
                return
        time.sleep(0.1)


@contextmanager
def _locked(lock: Path) -> Iterator[bool]:
    """Whether this lock is ours, or there can be none; ours is removed at the end."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    except OSError:  # as in a folder that can no longer be written
        yield True
        return
    with file:
        mine = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.path.samestat(os.fstat(file.fileno()), lock.stat())  # not one that its owner has just removed
        except (BlockingIOError, FileNotFoundError):
            mine = False
        except OSError:  # a file system without locks
            pass
        try:
            yield mine
        finally:
            if mine:
                with suppress(OSError):
                    lock.unlink()


@contextmanager
def becoming(path: Path) -> Iterator[Path]:
    """A name to write a file under, which is `path` when it is whole: a reader, or a crash, never meets half of it.

    The name lies in a hidden folder of its own, for a library may write temporary files beside it, and a crash leaves
    those too. What dead processes left goes first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tidy(path.parent)
    folder = temporary(path.with_name(f"{path.name}.{threading.get_ident()}"))
    try:
        folder.mkdir(exist_ok=True)
        part = folder / path.name
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        remove(folder)


def replace_file(path: Path, content: bytes) -> None:
    """Writes the file, whole or not at all."""
    with becoming(path) as part:
        part.write_bytes(content)


def sealed(path: Path) -> bool:
    """Whether the file is as it was when `seal` saw it. One that has changed since gets another name, and a word."""
    seal_of = path.with_name(f"{path.name}.crc32")
    if not (path.is_file() and seal_of.is_file()):
        return False
    if seal_of.read_text(errors="replace") == _checksum(path):
        return True
    warnings.warn(f"{path.name} is damaged: it is {set_aside(path)} now, and it is made anew", stacklevel=2)
    return False


def set_aside(path: Path) -> Path:
    """The new name of a file that is not what it should be: what is written next does not replace it."""
    aside = path.with_name(f"{path.name}.set-aside")
    path.replace(aside)
    return aside


def seal(path: Path) -> None:
    """Writes the file's checksum beside it."""
    replace_file(path.with_name(f"{path.name}.crc32"), _checksum(path).encode())


def _checksum(path: Path) -> str:
    """The CRC-32 and the size, as text."""
    crc = size = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return f"{crc:08x} {size}"


def writable(folder: str | Path, what: str = "out folder") -> Path:
    """The folder, made if it was not there; OSError if no file can be written into it."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder.resolve()
    except OSError as error:
        raise OSError(f"{what} {str(folder)!r}: cannot be written ({error.strerror})") from None


def cache() -> Path:
    """The folder of texts that were made ready: in $XDG_CACHE_HOME, by default ~/.cache.

    Where that cannot be written, or there is no home, a temporary folder, and a warning that says so.
    """
    try:
        named = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        if not os.path.isabs(named):
            raise OSError(f"{named!r} is no absolute path")
        return writable(Path(named) / "scta_lite", "cache folder")
    except (OSError, RuntimeError) as error:  # RuntimeError: no home
        instead = writable(Path(tempfile.gettempdir()) / f"scta_lite-{os.getuid()}")
        warnings.warn(f"{error}; texts are kept in {instead}, and XDG_CACHE_HOME names another folder", stacklevel=2)
        return instead
