"""An interruption ends the process, whatever hangs in it."""

import signal
import subprocess
import sys

import pytest

HANGS = {
    "a call that swallows it": "signal.signal(signal.SIGINT, lambda *_: None)\nready()\nwhile True: time.sleep(600)",
    "a thread that goes on": (
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "try:\n    ready()\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    sys.exit(1)"
    ),
}


@pytest.mark.parametrize("hang", HANGS)
def test_an_interruption_ends_what_hangs(hang):
    program = (
        "import signal, sys, threading, time\nfrom submissions.__main__ import end_within_a_second\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "def ready(): print('ready', flush=True)\nend_within_a_second()\n" + HANGS[hang]
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 1
        assert "the same command goes on where it stopped" in process.stderr.read()
    finally:
        process.kill()
        process.communicate()
