from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from bigbatch.run.signals import SignalFlag


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_a_request(number, code):
    before = [signal.getsignal(other) for other in (signal.SIGINT, signal.SIGTERM)]
    with SignalFlag() as flag:
        assert (flag.requested, flag.exit_code) == (None, None)
        os.kill(os.getpid(), number)
        assert (flag.requested, flag.exit_code) == (number, code)
    assert [signal.getsignal(other) for other in (signal.SIGINT, signal.SIGTERM)] == before
    assert flag.requested == number


def test_handlers_are_put_back_after_an_exception():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), SignalFlag():
        1 / 0  # noqa: B018
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    "first, second, code", [("INT", "INT", 130), ("TERM", "INT", 130), ("INT", "TERM", 143)]
)
def test_the_second_signal_exits_at_once(first, second, code):
    script = f"""
import atexit, os, signal, sys
from bigbatch.run.signals import SignalFlag
atexit.register(lambda: print("cleaned up"))
with SignalFlag() as flag:
    os.kill(os.getpid(), signal.SIG{first})
    print("asked", flag.requested.name, flush=True)
    os.kill(os.getpid(), signal.SIG{second})
    print("still here", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, f"asked SIG{first}\n", "")


def test_outside_the_main_thread_nothing_is_installed():
    before = signal.getsignal(signal.SIGINT)
    seen: list = []

    def work() -> None:
        with SignalFlag() as flag:
            seen.extend([flag.requested, signal.getsignal(signal.SIGINT)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None, before]
