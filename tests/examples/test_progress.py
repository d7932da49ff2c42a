"""Progress without a terminal: a line at once, and lines after it."""

from examples.progress import LINES, progress


def test_a_file_gets_a_line_at_once_and_one_for_each_tenth(capsys):
    steps = progress(list(range(100)), "reading", "clip")
    assert next(steps) == 0
    assert capsys.readouterr().err == "reading: 100 clips\n"
    assert list(steps) == list(range(1, 100))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == LINES
    assert lines[0] == "reading: 10 of 100 clips"
    assert lines[-1] == "reading: 100 of 100 clips"


def test_quiet_says_nothing(capsys):
    assert list(progress([1, 2], "reading", "clip", quiet=True)) == [1, 2]
    assert capsys.readouterr().err == ""
