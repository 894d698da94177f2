"""The declaration of a bar length is enough for every reader of it."""

from __future__ import annotations

import datetime as dt
import typing
import zoneinfo
from decimal import Decimal

import pytest

from qts_data.contracts import OHLCV
from qts_data.repositories import BAR_INTERVALS, BarInterval, Bars
from qts_data.terminal.market import print_bars


@pytest.mark.parametrize("interval", BAR_INTERVALS)
def test_a_bar_of_each_length_is_printed_as_open(interval: BarInterval, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of lengths beside the declared one would miss a new length."""
    begin = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
    one = Decimal(1)
    bar = OHLCV(time=begin, symbol="A", source="x", open=one, high=one, low=one, close=one, volume=one, tick_count=1)
    zone = zoneinfo.ZoneInfo("UTC")
    print_bars("bars", Bars([bar]), zone, interval=interval, asked_at=begin + dt.timedelta(seconds=1))
    assert "open" in capsys.readouterr().out.splitlines()[-1]


def test_each_named_length_is_declared() -> None:
    assert set(typing.get_args(BarInterval)) == set(BAR_INTERVALS)
