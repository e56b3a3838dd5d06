"""Ctrl-C once and twice, and SIGTERM, as a verb that trains understands them."""

from __future__ import annotations

import signal

import pytest

from nas.verbs.common import Stopping


def test_before_there_is_anything_to_finish_it_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Stopping():
        signal.raise_signal(signal.SIGINT)


def test_the_first_ctrl_c_is_gentle_and_the_second_is_not(capfd: pytest.CaptureFixture[str]) -> None:
    with Stopping() as stop:
        stop.begin()
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        assert capfd.readouterr().err.count("Ctrl-C again stops at once") == 1
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    assert capfd.readouterr().err == ""


def test_the_wish_to_end_is_never_gentle() -> None:
    with Stopping() as stop:
        stop.begin()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert not stop()


def test_afterwards_all_is_as_before() -> None:
    before = [signal.getsignal(wish) for wish in (signal.SIGINT, signal.SIGTERM)]
    with Stopping():
        assert [signal.getsignal(wish) for wish in (signal.SIGINT, signal.SIGTERM)] != before
    assert [signal.getsignal(wish) for wish in (signal.SIGINT, signal.SIGTERM)] == before


def test_what_a_shell_has_made_ignore_ctrl_c_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stopping() as stop:
            stop.begin()
            signal.raise_signal(signal.SIGINT)
            assert not stop()
    finally:
        signal.signal(signal.SIGINT, before)
