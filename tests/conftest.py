"""Fixtures for every test; the servers start only when a test asks for one."""

import signal

pytest_plugins = ["servers"]

# A shell lets what it starts in the background ignore interrupts, and so does all that this starts in turn.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
