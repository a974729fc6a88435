"""Where the project's files are, and the writing of files whole or not at all.

The package is installed with the paper's tables and the figures' style. The notebooks, the stored
runs and what the notebooks found lie only in a clone of the repository.
"""

import os
import re
import shutil
import socket
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

_FOLDER = Path(__file__).resolve().parents[2]  # in which both packages lie
_CLONE = (_FOLDER / "data" / "paper").is_dir()
ROOT = _FOLDER if _CLONE else Path.cwd()
"""The repository's folder, wherever Python was started; outside a clone, where it was started."""


def in_clone(*parts: str) -> Path:
    """A path in the repository; FileNotFoundError where the package was installed without it."""
    if not _CLONE:
        name = "/".join(parts)
        raise FileNotFoundError(f"{name} is not installed: expected a clone of the repository")
    return ROOT.joinpath(*parts)


def temporary(path: Path) -> Path:
    """A hidden name beside the path for what this process has not finished yet."""
    return path.with_name(f".{path.name}{_ending()}")


def _ending() -> str:
    """How the names of unfinished files end; `tidy` reads the process and the machine from it."""
    return f".{os.getpid()}@{socket.gethostname()}.part"


def tidy(folder: Path) -> None:
    """Removes what processes of this machine that are no longer alive left in the folder."""
    for file in folder.glob(".*.lock"):
        lock = FileLock(file)
        _take(lock)
        _release(lock)  # if nobody else has it, it goes
    host = re.escape(socket.gethostname())
    for part in folder.glob(".*.part"):
        process = re.search(rf"\.(\d+)@{host}\.part$", part.name)
        if process and not _alive(int(process[1])):
            remove(part)


def remove(part: Path) -> None:
    """The file, or the folder with all that is in it, if it is there."""
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    """Whether the process is there and has not ended.

    One that has ended, and that nobody waited for, is still there, but writes no more.
    """
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    with suppress(OSError, IndexError):  # only Linux has /proc
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX"
    return True


@contextmanager
def alone(path: Path, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Waits until no other process is in here with the same path, or until `stopped()`.

    The lock is the kernel's, on a hidden file beside the path: it ends with its process, however
    that ends. Where there are no locks nobody waits, and what two processes make is the same twice.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    while not (_take(lock) or stopped()):
        time.sleep(0.1)
    try:
        yield
    finally:
        _release(lock)


def _take(lock: FileLock) -> bool:
    """Whether the lock is ours now, or there can be none."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    except OSError:  # a folder that cannot be written, or a file system without locks
        pass
    return True


def _release(lock: FileLock) -> None:
    """Gives the lock back if it is ours.

    Its file goes first, for afterwards it may be another process's. Who waits for a lock whose
    file is gone makes a new file.
    """
    if lock.is_locked:
        with suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()


@contextmanager
def becoming(path: Path) -> Iterator[Path]:
    """A name to write a file under, which is `path` when it is whole.

    So a reader, or a crash, never meets half of it. The name lies in a hidden folder of its own,
    for a library may write temporary files beside it, and a crash leaves those too. What dead
    processes left goes first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tidy(path.parent)
    with tempfile.TemporaryDirectory(
        _ending(), f".{path.name}.", path.parent, ignore_cleanup_errors=True
    ) as folder:
        part = Path(folder, path.name)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)


def replace_file(path: Path, content: bytes) -> None:
    """Writes the file, whole or not at all."""
    with becoming(path) as part:
        part.write_bytes(content)


def sealed(path: Path) -> bool:
    """Whether the file is as it was when `seal` saw it.

    One that has changed since gets another name, and a warning says so.
    """
    seal_file = path.with_name(f"{path.name}.crc32")
    if not (path.is_file() and seal_file.is_file()):
        return False
    if seal_file.read_text(errors="replace") == _checksum(path):
        return True
    aside = set_aside(path)
    warnings.warn(f"{path.name} is damaged: it is {aside} now, and it is made anew", stacklevel=2)
    return False


def set_aside(path: Path) -> Path:
    """The new name, that no file has, of one that is not what it should be."""
    names = (path.with_name(f"{path.name}.set-aside{n or ''}") for n in count())
    aside = next(name for name in names if not name.exists())
    path.replace(aside)
    return aside


def seal(path: Path) -> None:
    """Writes the file's checksum beside it."""
    replace_file(path.with_name(f"{path.name}.crc32"), _checksum(path).encode())


def _checksum(path: Path) -> str:
    """The CRC-32 and the size, as text."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
        return f"{crc:08x} {file.tell()}"


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

    Where that cannot be written, or there is no home, a temporary folder, and a warning says so.
    """
    try:
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        if not os.path.isabs(home):
            raise OSError(f"{home!r} is no absolute path")
        return writable(Path(home) / "scta_lite", "cache folder")
    except (OSError, RuntimeError) as error:  # RuntimeError: no home
        instead = writable(Path(tempfile.gettempdir()) / f"scta_lite-{os.getuid()}")
        advice = f"texts are kept in {instead}, and XDG_CACHE_HOME names another folder"
        warnings.warn(f"{error}; {advice}", stacklevel=2)
        return instead


def printable(text: str) -> str:
    r"""The text as a terminal may have it: what it would obey, an escape sequence, is written out.

    >>> print(printable("a token \x1b[31m, a line\nand another"))
    a token \x1b[31m, a line
    and another
    """
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
