"""Files are there whole or not at all, and what a process that died left behind goes."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from scta_lab.base import files
from scta_lab.base.files import ROOT, alone, becoming, replace_file, temporary, tidy

FILES = ROOT / "scta_lab" / "base"  # where a process imports files.py alone, and not torch with the package
DYING = """
import os, signal, sys
from pathlib import Path
from files import becoming
with becoming(Path(sys.argv[1])) as part:
    part.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_had_not_finished_goes_with_the_next_file(tmp_path):
    path = tmp_path / "run.json"
    replace_file(path, b"old")
    died = subprocess.run([sys.executable, "-c", DYING, str(path)], cwd=FILES).returncode
    assert died == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    assert path.read_bytes() == b"old"
    replace_file(tmp_path / "other.json", b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.json", "run.json"]


def test_what_a_library_writes_beside_its_file_goes_too(tmp_path):
    """safetensors 0.8 writes to a `.tmp…` of its own, which it then renames; a kill in between leaves it."""
    code = DYING.replace("part.write", "(part.parent / '.tmpMLQv1z').touch(), part.write")
    assert code != DYING
    subprocess.run([sys.executable, "-c", f"from pathlib import Path; {code}", str(tmp_path / "run.json")], cwd=FILES)
    assert len(list(tmp_path.rglob(".tmp*"))) == 1
    replace_file(tmp_path / "other.json", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["other.json"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells an ended process from a running one")
def test_what_a_process_that_nobody_waited_for_left_goes_too(tmp_path):
    """In a container whose first process waits for none, an orphan that was killed keeps its number for ever."""
    zombie = subprocess.Popen([sys.executable, "-c", DYING, str(tmp_path / "run.json")], cwd=FILES)
    while Path(f"/proc/{zombie.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert len(list(tmp_path.iterdir())) == 1
    tidy(tmp_path)
    assert not list(tmp_path.iterdir())
    assert zombie.wait() == -signal.SIGKILL


def test_what_a_living_process_or_another_machine_writes_stays(tmp_path, monkeypatch):
    mine = temporary(tmp_path / "a.json")
    mine.touch()
    monkeypatch.setattr(files.socket, "gethostname", lambda: "elsewhere")
    theirs = temporary(tmp_path / "b.json")
    monkeypatch.undo()
    theirs.touch()
    (tmp_path / ".c.part").touch()  # none of ours
    tidy(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr(files, "_alive", lambda process: False)
    tidy(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([theirs.name, ".c.part"])


def test_a_write_that_fails_leaves_nothing_and_the_old_file(tmp_path):
    path = tmp_path / "run.json"
    replace_file(path, b"old")
    with pytest.raises(OSError, match="No space"), becoming(path) as part:  # noqa: PT012
        part.write_bytes(b"ha")
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_a_process_that_belongs_to_another_user_lives(monkeypatch):
    def refused(process, number):
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)
    assert files._alive(1)


def test_the_cache_is_where_it_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert files.cache() == tmp_path / "own" / "scta_lite"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache() == tmp_path / ".cache" / "scta_lite"


@pytest.mark.parametrize("broken", ["a file", "no home", "HOME=''"])
def test_a_cache_that_cannot_be_written_is_a_temporary_folder(tmp_path, monkeypatch, broken):
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME")
    if broken == "a file":
        (tmp_path / "x").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    elif broken == "no home":

        def nobody():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(files.Path, "home", nobody)
    else:
        monkeypatch.setattr(files.Path, "home", lambda: files.Path(""))
    with pytest.warns(UserWarning, match="XDG_CACHE_HOME names another folder"):
        found = files.cache()
    assert found.parent == tmp_path
    assert found.is_dir()


def test_one_at_a_time(tmp_path):
    inside, most = [], []

    def once():
        with alone(tmp_path / "new" / "run.json"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=once) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4
    assert not list((tmp_path / "new").iterdir())


def test_two_threads_write_one_file(tmp_path):
    """The first to end does not take the other's part away."""
    path = tmp_path / "ids.npy"
    with becoming(path) as ours:
        ours.write_bytes(b"same")
        thread = threading.Thread(target=replace_file, args=(path, b"same"))
        thread.start()
        thread.join()
        assert ours.is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["ids.npy"]


HOLDING = """
import os, signal, sys
from pathlib import Path
from files import alone
with alone(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_dead_process_holds_nothing(tmp_path):
    subprocess.run([sys.executable, "-c", HOLDING, str(tmp_path / "run.json")], cwd=FILES)
    assert [p.name for p in tmp_path.iterdir()] == [".run.json.lock"]
    tidy(tmp_path)
    assert not list(tmp_path.iterdir())
    subprocess.run([sys.executable, "-c", HOLDING, str(tmp_path / "run.json")], cwd=FILES)
    with alone(tmp_path / "run.json"):
        pass
    assert not list(tmp_path.iterdir())


def test_who_waits_can_be_stopped(tmp_path):
    with alone(tmp_path / "run.json"):
        with alone(tmp_path / "run.json", stopped=lambda: True):  # does not wait for ever
            pass
        assert (tmp_path / ".run.json.lock").is_file()  # it is still held
