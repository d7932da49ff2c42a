"""A file is written whole or not at all, and leaves no temporary."""

import os

import pytest

from examples.atomic import LEFTOVER, remove_leftovers, write_atomic


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_interrupted_write_leaves_the_file_of_before(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(b"before")
    with pytest.raises(TypeError), write_atomic(path) as file:
        file.writelines([b"half", "text"])
    assert path.read_bytes() == b"before"
    assert names(tmp_path) == ["a.pt"]


def test_two_writers_at_once_leave_the_whole_file_of_the_last(tmp_path):
    path = tmp_path / "a.pt"
    with write_atomic(path) as first:
        first.write(b"the first")
        with write_atomic(path) as second:
            second.write(b"2nd")
        assert path.read_bytes() == b"2nd"
    assert path.read_bytes() == b"the first"
    assert names(tmp_path) == ["a.pt"]


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(tmp_path):
    path = tmp_path / "a[1].pt"
    old, fresh, other = (tmp_path / f"{n}.tmp" for n in ("a[1].pt.1", "a[1].pt.2", "b.pt.3"))
    for file in (old, fresh, other):
        file.touch()
    age = fresh.stat().st_mtime - LEFTOVER - 1
    os.utime(old, (age, age))
    os.utime(other, (age, age))
    with write_atomic(path) as file:
        file.write(b"new")
    assert names(tmp_path) == sorted([path.name, fresh.name, other.name])
    remove_leftovers(path)
    assert names(tmp_path) == sorted([path.name, other.name])
