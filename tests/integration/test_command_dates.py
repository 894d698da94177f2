"""Commands with the first and the last date that a calendar has: a sentence, never a Traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fixtures.effort import FULL

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from tests.fixtures.fix_cli import RunCommand

DAYS = ["0001-01-01", "0001-12-31", "9998-12-31", "9999-12-31"]
ZONES = ["Asia/Seoul", "America/New_York", "UTC"]
EVERY = [(day, zone) for day in DAYS for zone in ZONES]
SHORT = [("0001-01-01", "Asia/Seoul"), ("9998-12-31", "UTC"), ("9999-12-31", "America/New_York")]


@pytest.mark.parametrize(("day", "zone"), EVERY if FULL else SHORT)
def test_first_and_last_dates_end_in_a_sentence(database_url: URL, qts_data: RunCommand, day: str, zone: str) -> None:
    environment = {
        "QTS_DATABASE_URL": database_url.render_as_string(hide_password=False),
        "QTS_TRADING_TIME_ZONE": zone,
    }
    offsets = ["T23:59", "T00:00+0900", "T23:59-0500", "T12:00+0000"]
    commands = [["bars", "Z", "--date", day], ["bars", "Z", "--date", day, "--daily"]]
    commands += [
        ["book", "rebuild", "--as-of", day + time] for time in ("", "T23:59:59", "T00:00+09:00", "T23:59-05:00")
    ]
    for time in ("", *offsets):
        commands.append(["gaps", "list", "Z", "--from", day + time, "--to", day + time])
        commands.append(["gaps", "list", "Z", "--from", "2026-11-20", "--to", day + time])
        commands.append(["gaps", "list", "Z", "--from", day + time, "--to", "2026-11-20"])
        commands.append(["gaps", "sign-off", "Z", "--from", day + time, "--to", "9999-12-30", "--reason", "r"])
    for command in commands:
        done = qts_data(*command, **environment)
        assert done.returncode in {0, 1, 2, 3}, command
        assert "Traceback" not in done.stderr + done.stdout, (command, done.stderr)


def test_sign_off_prints_the_hours_of_the_zone(database_url: URL, qts_data: RunCommand) -> None:
    done = qts_data(
        "gaps", "sign-off", "Z", "--from", "2026-11-20T00:00+0000", "--to", "2026-11-20T00:30-0500", "--reason", "r",
        QTS_DATABASE_URL=database_url.render_as_string(hide_password=False),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "from 2026-11-20 09:00 to 2026-11-20 14:30 Asia/Seoul" in done.stdout
