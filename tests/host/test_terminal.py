"""Progress is shown where the wait is long, on a terminal or as lines of the log."""

from __future__ import annotations

import logging

import pytest

from jcls.host import terminal


def test_progress_is_shown_only_to_the_patient(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is said of what is quickly done; without a terminal, the rest is lines of the log."""
    with caplog.at_level(logging.INFO, logger='jcls'):
        with terminal.progress('counting', 5) as advance:
            advance(3)
        assert not caplog.text
        monkeypatch.setattr(terminal, 'PATIENCE', 0.0)
        with terminal.progress('counting', 5000) as advance:
            advance(1000)
            advance(500)
    assert [record.message for record in caplog.records] == ['counting: 1,000 of 5,000']
