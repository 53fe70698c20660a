"""A file is the old one or the new one, whatever ends its writing; nothing is left beside it."""

import errno
import os
import stat
import subprocess
import sys

import pytest

from ift.files import sync_to_disk, write_atomically


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize(
    ("content", "written"), [("é\n", b"\xc3\xa9\n"), (b"\x00\xff\r\n", b"\x00\xff\r\n"), ("", b"")]
)
def test_texts_are_utf_8_and_bytes_are_as_they_are(tmp_path, content, written, sync):
    path = tmp_path / "file"
    path.write_text("old")
    write_atomically(path, content, sync=sync)
    assert path.read_bytes() == written
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("moment", ["fsync", "replace"])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, error, moment, old
):
    path = tmp_path / "file"
    if old is not None:
        path.write_text(old)

    def broken(*_):
        raise error

    monkeypatch.setattr(os, moment, broken)
    with pytest.raises(type(error)) as raised:
        write_atomically(path, "new", sync=True)
    assert raised.value is error
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == ({"file": old} if old else {})


KILLED = """
import os, signal, sys
from pathlib import Path
from ift.files import write_atomically
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
write_atomically(Path(sys.argv[1]), "new", sync=True)
"""


def test_a_process_killed_while_it_writes_leaves_the_old_file_and_is_in_nobodys_way(tmp_path):
    """Nothing can clean up after SIGKILL: the half is hidden, and ends as no file that is looked for."""
    path = tmp_path / "run.json"
    path.write_text("old")
    assert subprocess.run([sys.executable, "-c", KILLED, path], timeout=60).returncode == -9
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.glob("*.json")] == ["run.json"]
    (partial,) = (name for name in os.listdir(tmp_path) if name != "run.json")
    assert partial.startswith(".run.json.")
    assert partial.endswith(".partial")
    write_atomically(path, "newer")
    assert path.read_text() == "newer"


def test_what_cannot_be_written_as_text_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_no_folder_is_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "file", "new")
    assert not os.listdir(tmp_path)


def test_others_may_read_it_as_far_as_the_umask_lets_them(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_the_disk_has_the_file_before_its_name_and_then_the_folder(tmp_path, monkeypatch):
    """Without `sync`, nothing is waited for."""
    done = []

    def fsync(handle, real=os.fsync):
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        real(handle)

    def replace(*paths, real=os.replace):
        done.append("replace")
        real(*paths)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_atomically(tmp_path / "file", "new", sync=True)
    assert done == ["file", "replace", "folder"]
    done.clear()
    write_atomically(tmp_path / "file", "new")
    assert done == ["replace"]
    done.clear()
    sync_to_disk(tmp_path / "file")
    assert done == ["file"]
