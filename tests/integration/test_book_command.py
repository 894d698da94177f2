"""`qts-data book`: its output and its three exit codes."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from qts_data.contracts import Reversal
from qts_data.database.engine import engine
from qts_data.repositories import Database
from tests.fixtures.factories import FillFactory

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from sqlalchemy.engine import URL

    Command = Callable[..., subprocess.CompletedProcess[str]]

OPENING = dt.datetime(2026, 11, 20, 0, 0, tzinfo=dt.UTC)  # 09:00 in Korea


@pytest.fixture
def command(qts_data: Command, database_url: URL) -> Command:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return qts_data("book", *arguments, QTS_DATABASE_URL=database_url.render_as_string(hide_password=False))

    return run


@pytest.fixture
def booked(database_url: URL) -> None:
    async def book() -> None:
        async with Database(database_url) as database, database.transaction() as uow:
            await uow.ledger.record_fills(
                [
                    FillFactory.build(timestamp=OPENING, qty=Decimal(10), price=Decimal(100), execution_id="a"),
                    FillFactory.build(
                        timestamp=OPENING + dt.timedelta(hours=16), side="SELL", qty=Decimal(4), price=Decimal(110)
                    ),
                    FillFactory.build(
                        symbol="BTCUSDT", market="BINANCE", currency="USDT", account="crypto", strategy_tag="momentum",
                        qty=Decimal("0.00000001"), price=Decimal("91234.56"),
                    ),
                    FillFactory.build(symbol="000660", execution_id="gone"),
                ]
            )  # fmt: skip
            await uow.ledger.reverse_fill(
                Reversal(timestamp=OPENING, broker="test", execution_id="bust", reverses="gone")
            )

    asyncio.run(book())


def damage(url: URL, statement: str) -> None:
    with engine(url).begin() as connection:
        connection.execute(sa.text(statement))


def table(run: subprocess.CompletedProcess[str]) -> list[list[str]]:
    assert run.returncode == 0, run.stderr
    return [line.split() for line in run.stdout.splitlines()]


def found(run: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(run.stdout)


def test_an_empty_book_is_right_and_shows_nothing(command: Command) -> None:
    shown = command("show")
    assert (shown.returncode, shown.stdout, shown.stderr.strip()) == (1, "", "no positions")
    right = command("verify")
    assert (right.returncode, right.stdout.strip()) == (0, "0 entries, 0 positions")


@pytest.mark.usefixtures("booked")
def test_show_prints_positions_with_every_digit(command: Command) -> None:
    header, btc, samsung = table(command("show"))
    assert header[:4] == ["account", "symbol", "market", "qty"]
    assert btc[:6] == ["crypto", "BTCUSDT", "BINANCE", "0.00000001", "91,235", "0.00091235"]
    assert samsung[:7] == ["main", "005930", "KRX", "6", "100", "600", "40"]
    assert len(table(command("show", "--closed"))) == 4
    assert [row[1] for row in table(command("show", "--strategy", "momentum"))] == ["symbol", "BTCUSDT"]
    assert [row[1] for row in table(command("show", "--account", "main"))] == ["symbol", "005930"]
    exact = found(command("show", "--market", "BINANCE", "--json"))["positions"]
    assert [one["cost_basis"] for one in exact] == ["0.00091235"]


@pytest.mark.usefixtures("booked")
def test_show_of_a_symbol_prints_its_last_entries(command: Command) -> None:
    rows = table(command("show", "000660"))
    assert "gone" in rows[-2]
    assert {"bust", "(reverses"} <= set(rows[-1])
    # The factory counts milliseconds from 09:00 in Korea on, over all tests.
    assert rows[-2][0] == "2026-11-20"
    assert rows[-2][1].startswith("09:")
    entries = found(command("show", "005930", "--json", "--limit", "1"))["entries"]
    assert [(one["entry"]["side"], one["realized_pnl"]) for one in entries] == [("SELL", "40.00000000")]


@pytest.mark.usefixtures("booked")
def test_show_with_filters_prints_matching_entries_only(command: Command, database_url: URL) -> None:
    """`book show SYMBOL` with an account, a market or a strategy prints entries of that one only."""

    async def book() -> None:
        async with Database(database_url) as database, database.transaction() as uow:
            for account, market, tag in (
                ("a", "KRX", "s1"),
                ("a", "KRX", "s2"),
                ("b", "NXT", "s1"),
                ("c", "KRX", None),
            ):
                await uow.ledger.record_fill(
                    FillFactory.build(symbol="X", account=account, market=market, strategy_tag=tag)
                )

    asyncio.run(book())

    def entries(*arguments: str) -> list[tuple[str, str | None]]:
        listed = found(command("show", "X", *arguments, "--json"))["entries"]
        return [(one["entry"]["account"], one["entry"]["strategy_tag"]) for one in reversed(listed)]

    assert entries() == [("a", "s1"), ("a", "s2"), ("b", "s1"), ("c", None)]
    assert entries("--strategy", "s1") == [("a", "s1"), ("b", "s1")]
    assert entries("--market", "KRX") == [("a", "s1"), ("a", "s2"), ("c", None)]
    assert entries("--market", "KRX", "--limit", "2") == [("a", "s2"), ("c", None)]
    assert entries("--market", "NXT", "--account", "b") == [("b", "s1")]
    nowhere = command("show", "X", "--market", "NOPE")
    assert (nowhere.returncode, nowhere.stdout, nowhere.stderr.strip()) == (1, "", "no positions")


def test_names_print_literally_and_numbers_without_exponents(command: Command, database_url: URL) -> None:
    """Names that look like markup of the terminal library are printed literally."""
    names = ["[/x]", "BTC[bold]PERP", ":btc:", "[link=x]"]

    async def book() -> None:
        async with Database(database_url) as database, database.transaction() as uow:
            await uow.ledger.record_fills(
                [FillFactory.build(symbol=name, account=name, broker=name, execution_id=name) for name in names]
            )
            await uow.ledger.record_fills([FillFactory.build(symbol=":btc:", account=":btc:", side="SELL")])

    asyncio.run(book())
    damage(database_url, "UPDATE positions SET qty = qty + 1")
    assert sorted(row[0] for row in table(command("show", "--closed"))[1:]) == sorted(names)
    for name in names:
        rows = table(command("show", name))
        assert [rows[1][:2], rows[4][2:4]] == [[name, name], [name, name]]
    assert sorted(line.split()[1] for line in command("verify").stdout.splitlines()[2:]) == sorted(names)
    for arguments in (("show", "--closed"), ("show", ":btc:"), ("verify",)):
        assert "E-8" not in command(*arguments, "--json").stdout


@pytest.mark.usefixtures("booked")
def test_rebuild_repairs_the_mismatches_that_verify_names(command: Command, database_url: URL) -> None:
    """`verify` names positions that do not follow from the ledger. `rebuild --write` writes them anew."""
    assert command("verify").stdout.strip() == "5 entries, 3 positions"
    damage(database_url, "UPDATE positions SET qty = qty + 0.00000001 WHERE symbol = '005930'")
    damage(database_url, "DELETE FROM positions WHERE symbol = 'BTCUSDT'")
    wrong = command("verify")
    assert wrong.returncode == 1
    assert ["main", "005930", "position", "qty", "6.00000001", "6.00000000"] in [
        line.split() for line in wrong.stdout.splitlines()
    ]
    machine = command("verify", "--json")
    assert (machine.returncode, found(machine)["right"]) == (1, False)
    assert {one["symbol"] for one in found(machine)["mismatches"]} == {"005930", "BTCUSDT"}
    written = command("rebuild", "--write")
    assert written.returncode == 0, written.stderr
    assert written.stdout.splitlines()[-1] == "2 positions corrected"
    assert command("verify").returncode == 0
    assert found(command("rebuild", "--write", "--json")) == {"was_wrong": [], "right": True}


@pytest.mark.usefixtures("booked")
def test_a_ledger_that_was_tampered_with_is_not_put_right(command: Command, database_url: URL) -> None:
    damage(database_url, "ALTER TABLE t_ledger DISABLE TRIGGER USER")
    damage(database_url, "UPDATE t_ledger SET realized_pnl = 41 WHERE realized_pnl = 40")
    for arguments in (("verify",), ("rebuild", "--write")):
        run = command(*arguments)
        assert run.returncode == 1, run.stderr
        assert ["realized_pnl", "41.00000000", "40.00000000"] in [line.split()[-3:] for line in run.stdout.splitlines()]


@pytest.mark.usefixtures("booked")
def test_rebuild_gives_the_book_at_a_past_instant(command: Command) -> None:
    assert [row[3] for row in table(command("rebuild"))[1:]] == ["0.00000001", "6"]
    # 16 hours after the opening it is the next day in Korea.
    assert [row[3] for row in table(command("rebuild", "--as-of", "2026-11-20", "--account", "main"))[1:]] == ["10"]
    assert found(command("rebuild", "--as-of", "2026-11-20T09:00", "--json"))["as_of"] == "2026-11-20T09:00:00+09:00"
    past = found(command("rebuild", "--as-of", "2026-11-20T00:00Z", "--by", "recorded_at", "--json"))
    assert past["positions"] == []


@pytest.mark.parametrize(
    ("zone", "text", "instant"),
    [
        ("Asia/Seoul", "2026-11-20", "2026-11-20T23:59:59.999999+09:00"),
        ("Asia/Seoul", "20261120", "2026-11-20T23:59:59.999999+09:00"),
        ("Asia/Seoul", "2026-W47-5", "2026-11-20T23:59:59.999999+09:00"),
        ("Asia/Seoul", "2026-W47", "2026-11-16T23:59:59.999999+09:00"),
        ("Asia/Seoul", "20261120T1530", "2026-11-20T15:30:00+09:00"),
        ("Asia/Seoul", "2026-11-20T15:30Z", "2026-11-20T15:30:00+00:00"),
        # The clock goes back from midnight to 23:00, and forward from midnight to 1:00.
        ("America/Santiago", "2026-04-04", "2026-04-04T23:59:59.999999-04:00"),
        ("America/Santiago", "2026-09-05", "2026-09-05T23:59:59.999999-04:00"),
    ],
)
def test_a_date_alone_is_the_end_of_its_day(
    qts_data: Command, database_url: URL, zone: str, text: str, instant: str
) -> None:
    url = database_url.render_as_string(hide_password=False)
    run = qts_data("book", "rebuild", "--as-of", text, "--json", QTS_DATABASE_URL=url, QTS_TRADING_TIME_ZONE=zone)
    assert found(run) == {"as_of": instant, "positions": []}


def test_command_without_an_answer_exits_with_2(command: Command, qts_data: Command, empty_database: URL) -> None:
    """A missing schema or an impossible date is neither a right book (exit code 0) nor a wrong one (1)."""
    for arguments in (("verify",), ("show",), ("rebuild",)):
        url = empty_database.render_as_string(hide_password=False)
        run = qts_data("book", *arguments, QTS_DATABASE_URL=url)
        assert (run.returncode, run.stdout) == (2, "")
        assert "run qts-data db upgrade" in run.stderr
    run = command("rebuild", "--as-of", "yesterday")
    assert run.returncode == 2
    assert "neither a date nor a time" in run.stderr
    for text in ("9999-12-31", "0001-01-01T00:00"):
        run = command("rebuild", "--as-of", text)
        assert run.returncode == 2
        assert "outside the years 1 to 9999" in run.stderr
    assert command("rebuild", "--write", "--as-of", "2026-11-20").returncode == 2
