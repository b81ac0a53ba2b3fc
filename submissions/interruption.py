"""Ctrl-C ends the program within a second, whatever it finds running: every file is safe at any instant."""

from __future__ import annotations

import os
import signal
import threading
import time

GRACE_S = 0.8  # for what ends in order
LINE = "top7: interrupted; the same command goes on where it stopped"
said = threading.Event()  # the line is on its way


def end_within_a_second() -> None:
    """From now on an interruption that is not over after GRACE_S, in a library's long call or a thread, is cut short."""
    if os.name == "nt":  # wakes sockets only
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()


def _watch(reading: int) -> None:
    while signal.SIGINT not in os.read(reading, 1):
        pass
    time.sleep(GRACE_S)
    if not said.is_set():
        os.write(2, f"\n{LINE}\n".encode())
    os._exit(1)
