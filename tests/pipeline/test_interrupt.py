"""Signals: requests while a run is on, told of at once, and nobody's afterwards."""

import os
import signal

import pytest

from pipeline.errors import InterruptedRunError
from pipeline.interrupt import StopRequest
from pipeline.progress import SilentProgress


class Heard(SilentProgress):
    def __init__(self):
        self.texts = []

    def at_once(self, text):
        self.texts.append(text)


def test_a_request_is_told_of_before_anybody_checks():
    progress = Heard()
    with StopRequest(progress).listening() as stop:
        stop.begin()
        os.kill(os.getpid(), signal.SIGINT)
        said = "SIGINT: stopping with a checkpoint; Ctrl-C again ends at once"
        assert progress.texts == [said]
        with pytest.raises(InterruptedRunError, match="SIGINT"):
            stop.check()
    assert progress.texts == [said]


def test_sigterm_may_come_twice_and_is_told_of_once():
    progress = Heard()
    with StopRequest(progress).listening() as stop:
        stop.begin()
        stop.what_follows = "the end"
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
    assert progress.texts == ["SIGTERM: the end"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_their_former_owner_s_after_an_interrupted_run(number):
    def owner(*_):
        pass

    before = signal.signal(number, owner)
    try:
        with StopRequest().listening() as stop:
            stop.begin()
            os.kill(os.getpid(), number)
            assert stop.signal_name == number.name
        assert signal.getsignal(number) is owner
    finally:
        signal.signal(number, before)
