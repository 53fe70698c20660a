"""A file is the old one or the new one, whatever ends its writing; nothing is left beside it."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ift.files import check_target, keep_lines, numbered_lines, sync_to_disk, write_atomically


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


def test_a_line_feed_alone_ends_a_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    text = '\ufeff{"a": "x\u2028y\x85z\u2029\x0b"}\r\n\n  \n{"a": 2}'
    path.write_bytes(text.encode())
    lines = list(numbered_lines(path))
    assert [number for number, _ in lines] == [1, 4]
    assert (
        lines[0][1].decode()
        == text.splitlines(keepends=False)[0][1:] + text[text.index("\u2028") :].split("\r")[0]
    )


def test_lines_beyond_a_step_and_half_lines_are_dropped(tmp_path):
    path = tmp_path / "answers.jsonl"
    first = '{"step": 1, "answer": "a\u2028b"}\n'
    path.write_text(first + '{"step": 2}\n[3]\n{"step": 1, "ans', encoding="utf-8")
    keep_lines(path, 1)
    assert path.read_text(encoding="utf-8") == first
    keep_lines(path, float("-inf"))
    assert not path.read_bytes()


def test_a_target_that_cannot_be_written_or_is_an_input_is_refused(tmp_path, monkeypatch):
    source, model = tmp_path / "in.jsonl", tmp_path / "model"
    source.write_text("{}")
    model.mkdir()
    (tmp_path / "link.jsonl").symlink_to(source)
    check_target(tmp_path / "new" / "out.jsonl", [source, model])
    for name, said in {
        "in.jsonl": "replace an input",
        "link.jsonl": "replace an input",
        "model/out.jsonl": "replace an input",
        "model": "replace an input",
        "in.jsonl/out.jsonl": "is a file, expected a folder",
    }.items():
        with pytest.raises(ValueError, match=said):
            check_target(tmp_path / name, [source, model])
    with pytest.raises(ValueError, match="found a folder"):
        check_target(model)
    with pytest.raises(ValueError, match="/dev/null: found a device or pipe, expected a file"):
        check_target(Path("/dev/null"))
    with pytest.raises(ValueError, match=r"this file exists, .* Fix: choose another path, or delete"):
        check_target(source, replaces=lambda start: start.startswith(b"ours"))
    source.write_text("ours and more")
    check_target(source, replaces=lambda start: start.startswith(b"ours"))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(ValueError, match="not writable"):
        check_target(tmp_path / "new" / "out.jsonl")
