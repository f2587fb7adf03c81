"""The end of a program: whatever thread the kernel gives the signal to."""

import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent(
    """
    import asyncio, signal, sys, threading
    from diskmigration.cluster.running import run_until_told

    async def main():
        {main}

    def send():
        signal.pthread_kill(threading.{thread}().ident, signal.{number})

    {begin}
    run_until_told(main)
    print("ended")
    """
)
SIGNALLED = "asyncio.get_running_loop().call_later(0.5, send); await asyncio.Event().wait()"
END_SECONDS = 60


def run(main: str, *, begin: str = "", thread: str = "main_thread", number: str = "SIGTERM") -> tuple[int, str]:
    """Run a program whose event loop runs this: its exit status, and what it printed."""
    text = PROGRAM.format(main=main, begin=begin, thread=thread, number=number)
    command = [sys.executable, "-c", text]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=END_SECONDS)
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("thread", ["main_thread", "current_thread"])
def test_a_signal_ends_it_on_whatever_thread_it_arrives(thread: str, number: str) -> None:
    assert run(SIGNALLED, thread=thread, number=number) == (0, "ended\n")


def test_it_ends_with_its_coroutine() -> None:
    assert run("pass") == (0, "ended\n")


def test_it_raises_what_its_coroutine_raised() -> None:
    status, output = run("raise ValueError('broken')")
    assert status == 1
    assert "ValueError: broken" in output


def test_other_signals_do_not_end_it() -> None:
    main = "send(); await asyncio.sleep(0.2); print('went on')"
    begin = "signal.signal(signal.SIGUSR1, lambda *_: None)"
    assert run(main, begin=begin, number="SIGUSR1") == (0, "went on\nended\n")
