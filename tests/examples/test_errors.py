"""Commands end by a message on what their user can help, and only on that."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from examples.errors import UserError, room_for, user_errors


@pytest.fixture(autouse=True)
def handler():
    """Give back the handler of SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_users_error_is_its_message_and_a_bug_keeps_its_traceback():
    with pytest.raises(SystemExit, match=r"^expected a, got b; c$"), user_errors():
        raise UserError("expected a, got b; c")
    with pytest.raises(ValueError, match="a bug"), user_errors():
        raise ValueError("a bug")
    with pytest.raises(OSError, match="no path"), user_errors():
        raise OSError(errno.EIO, "no path")


def test_a_path_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"got .*/none \(No such file.*\); correct"), user_errors():
        (tmp_path / "none").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_says_what_is_kept_and_has_the_status_of_its_signal(number):
    code = (
        "import signal, time\nfrom examples.errors import user_errors\n"
        # A process in the background may have been started with it ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with user_errors('epochs are kept'):\n    print('on', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "on\n"
        time.sleep(0.1)
        child.send_signal(number)
        out = child.stdout.read()
    assert out == f"\nstopped by {number.name}: epochs are kept\n"
    assert child.returncode == 128 + number


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_a_full_disk_is_named_with_what_is_needed_and_free(tmp_path):
    path = tmp_path / "a.bin"
    message = r"expected room for 3\.0 MB of .*a\.bin, got a full disk \([\d.]+ MB free, .*; free"
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(UserError, match=message), room_for(path, 3_000_000):
        os.write(full, b"0")
    os.close(full)
    with pytest.raises(FileNotFoundError), room_for(path):
        path.read_bytes()
