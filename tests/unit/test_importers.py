"""File layouts of other vendors: their real columns, and every kind of bad row."""

from __future__ import annotations

import datetime as dt
import zipfile
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from qts_data.contracts import OHLCV, TickData
from qts_data.errors import ConfigurationError, InvalidRecord
from qts_data.importers import FORMATS, ReadOptions, bar_length, read_file
from qts_data.importers.binance import read_klines
from qts_data.importers.files import read_lines
from qts_data.importers.lean_bars import read_bars
from qts_data.importers.lean_quote import Quote, join_quotes, read_quotes
from qts_data.importers.lean_trade import read_ticks
from tests.fixtures.market import DAY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.fix_lean import LeanDay


def read(name: str, path: Path, **options: Any) -> list[Any]:
    return list(read_file(name, path, ReadOptions(**options)))


def refused(name: str, path: Path, **options: Any) -> tuple[list[Any], list[tuple[int | None, str]]]:
    """The good records, and row and field of the bad ones."""
    bad: list[tuple[int | None, str]] = []
    good = list(read_file(name, path, ReadOptions(**options), lambda error, _: bad.append((error.row, error.field))))
    return good, bad


def zipped(path: Path, content: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(path.with_suffix(".csv").name, content)
    return path


# Binance --------------------------------------------------------------------------------------------------

SPOT_TRADES = "4359852030,93576.00000000,0.00119000,111.35544000,{},True,True\n"
FUTURES_TRADES = "5823476041,93523.4,0.012,1122.2808,1735689600012,true\n"
SPOT_AGG = "3358731103,93576.00000000,0.01190000,4359852030,4359852033,{},True,True\n"
FUTURES_AGG = "2489271731,93523.4,0.012,5823476041,5823476041,1735689600012,true\n"
KLINE = "{0},93576.00,95151.15,92888.00,94591.79,10373.32,{1},974906821.3,{2},5000.1,470000000.2,0\n"


@pytest.mark.parametrize(
    ("name", "content", "seq"),
    [
        ("binance-trades", SPOT_TRADES.format(1735689600012), 4359852030),
        ("binance-trades", SPOT_TRADES.format(1735689600012000), 4359852030),
        ("binance-trades", FUTURES_TRADES, 5823476041),
        ("binance-trades", "id,price,qty,quote_qty,time,is_buyer_maker\n" + FUTURES_TRADES, 5823476041),
        ("binance-agg-trades", SPOT_AGG.format(1735689600012), 3358731103),
        ("binance-agg-trades", SPOT_AGG.format(1735689600012000), 3358731103),
        ("binance-agg-trades", FUTURES_AGG, 2489271731),
        (
            "binance-agg-trades",
            "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n" + FUTURES_AGG,
            2489271731,
        ),
    ],
)
def test_trades_of_binance_in_every_width_and_unit(tmp_path: Path, name: str, content: str, seq: int) -> None:
    [tick] = read(name, zipped(tmp_path / "BTCUSDT-trades-2025-01-01.zip", content))
    assert (tick.symbol, tick.source, tick.seq) == ("BTCUSDT", "binance", seq)
    assert tick.time == dt.datetime(2025, 1, 1, 0, 0, 0, 12_000, tzinfo=dt.UTC)
    assert tick.price in {Decimal(93576), Decimal("93523.4")}


@pytest.mark.parametrize(
    ("opened", "closed"),
    [(1735689600000, 1735775999999), (1735689600000000, 1735775999999999)],
)
def test_daily_klines_of_binance(tmp_path: Path, opened: int, closed: int) -> None:
    path = zipped(tmp_path / "BTCUSDT-1d-2025-01.zip", KLINE.format(opened, closed, 1234))
    [bar] = read("binance-klines", path)
    assert bar == OHLCV(
        time=dt.datetime(2025, 1, 1, tzinfo=dt.UTC), symbol="BTCUSDT", source="binance",
        open=Decimal(93576), high=Decimal("95151.15"), low=Decimal(92888), close=Decimal("94591.79"),
        volume=Decimal("10373.32"), tick_count=1234,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("opened", "closed"),
    [(1735689600000, 1735689659999), (1735689600000000, 1735689659999999)],
)
def test_minute_klines_of_binance(tmp_path: Path, opened: int, closed: int) -> None:
    path = tmp_path / "BTCUSDT-1m-2025-01-01.csv"
    path.write_text("open_time" + 11 * ",x" + "\n" + KLINE.format(opened, closed, 7))
    assert bar_length("binance-klines", path) == "1m"
    [bar] = read("binance-klines", path)
    assert (bar.time, bar.tick_count) == (dt.datetime(2025, 1, 1, tzinfo=dt.UTC), 7)


@pytest.mark.parametrize("minutes", [3, 5, 60, 7 * 24 * 60])
def test_klines_of_a_length_without_a_table_are_refused(tmp_path: Path, minutes: int) -> None:
    """The whole file is refused. The reader itself accepts any length."""
    path = tmp_path / "BTCUSDT-5m-2025-01-01.csv"
    length = minutes * 60_000
    starts = range(1735689600000, 1735689600000 + 3 * length, length)
    path.write_text("1,2\n" + "".join(KLINE.format(start, start + length - 1, 7) for start in starts))
    words = r"row 2: close_time: the bar covers .*, neither a minute nor a day; import klines of a minute, or trades"
    with pytest.raises(InvalidRecord, match=words):
        refused("binance-klines", path)
    with pytest.raises(InvalidRecord, match=words):
        bar_length("binance-klines", path)
    # The reader itself takes any length.
    path.write_text(KLINE.format(1735689600000, 1735689600000 + length - 1, 7))
    assert [bar.tick_count for bar in read_klines(path, ReadOptions(), None)] == [7]


def test_klines_between_others_of_another_length_are_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-1m-2025-01-01.csv"
    start = 1735689600000
    path.write_text(
        KLINE.format(start, start + 299_999, 1)  # five minutes
        + KLINE.format(start, start + 59_999, 2)
        + KLINE.format(start + 60_000, start + 86_459_999, 3)  # a day
        + KLINE.format(start + 60_500, start + 120_499, 4)  # a minute, begun between two
        + KLINE.format(start + 120_000, start + 180_000, 5)  # a unit too long
        + KLINE.format(start + 180_000, start + 239_999, 6)
    )
    bars, bad = refused("binance-klines", path)
    assert [bar.tick_count for bar in bars] == [2, 6]
    assert bad == [(1, "close_time"), (3, "close_time"), (4, "open_time"), (5, "close_time")]
    path.write_text("1,2\n")
    assert refused("binance-klines", path) == ([], [(1, "row")])


def test_bad_rows_of_binance_are_named(tmp_path: Path) -> None:
    path = tmp_path / "trades.csv"
    good = SPOT_TRADES.format(1735689600012)
    path.write_text(
        good + good.replace("True,True", "maybe,True") + good.replace("1735689600012", "17356896000") + "1,2,3\n"
        + good.replace("93576.00000000", "93,576.0") + good.replace("4359852030", "-1")
    )  # fmt: skip
    with pytest.raises(InvalidRecord, match=r"symbol: trades\.csv does not begin with one"):
        read("binance-trades", path)
    ticks, bad = refused("binance-trades", path, symbol="BTCUSDT")
    assert len(ticks) == 1
    assert bad == [(2, "is_buyer_maker"), (3, "time"), (4, "row"), (5, "row"), (6, "id")]


# KRX ------------------------------------------------------------------------------------------------------

KRX_HEADER = "종목코드,종목명,시장구분,소속부,종가,대비,등락률,시가,고가,저가,거래량,거래대금,시가총액,상장주식수"
KRX_ROWS = [
    '"005930","삼성전자","KOSPI","","71500","500","0.70","71000","71800","70900","12345678","881234567000","426843000000000","5969782550"',
    '"0001A0","에이치","KOSDAQ","중견기업부","3015","-15","-0.50","3030","3045","3000","120","361800","9000000","3000"',
    '"00680K","거래정지우","KOSPI","","8940","0","0.00","0","0","0","0","0","1","1"',
]


def krx_file(path: Path, rows: list[str], encoding: str = "cp949") -> Path:
    header = ",".join(f'"{name}"' for name in KRX_HEADER.split(","))
    path.write_bytes("\r\n".join([header, *rows, ""]).encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["cp949", "utf-8-sig"])
def test_daily_bars_of_krx(tmp_path: Path, encoding: str) -> None:
    bars = read("krx-daily", krx_file(tmp_path / "data_4523_20260102.csv", KRX_ROWS, encoding))
    assert [bar.symbol for bar in bars] == ["005930", "0001A0", "00680K"]
    midnight = dt.datetime(2026, 1, 1, 15, tzinfo=dt.UTC)  # of 2 January in Korea
    assert {bar.time for bar in bars} == {midnight}
    samsung, _, halted = bars
    assert [int(x) for x in (samsung.open, samsung.high, samsung.low, samsung.close, samsung.volume)] == [
        71000, 71800, 70900, 71500, 12345678,
    ]  # fmt: skip
    assert {halted.open, halted.high, halted.low, halted.close} == {Decimal(8940)}
    assert halted.volume == 0


def test_a_file_of_krx_needs_a_day_and_its_header(tmp_path: Path) -> None:
    path = krx_file(tmp_path / "data.csv", KRX_ROWS)
    with pytest.raises(InvalidRecord, match=r"date: data\.csv does not name its day"):
        read("krx-daily", path)
    assert len(read("krx-daily", path, date=dt.date(2026, 1, 2))) == 3
    (tmp_path / "x_20260102.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InvalidRecord, match="row 1: row: the header does not name 종목코드"):
        read("krx-daily", tmp_path / "x_20260102.csv")


def test_bad_rows_of_krx_are_named(tmp_path: Path) -> None:
    rows = [
        KRX_ROWS[0],
        KRX_ROWS[0].replace("71800", "71,800"),
        KRX_ROWS[0].replace('"71500"', '"71500'),
        KRX_ROWS[0].replace("70900", "99999"),
        KRX_ROWS[0].replace("005930", "5930"),
        KRX_ROWS[0].rsplit(",", 1)[0],
        KRX_ROWS[0].replace('"71000"', '"0"'),
        KRX_ROWS[1],
    ]
    bars, bad = refused("krx-daily", krx_file(tmp_path / "20260102.csv", rows))
    assert [bar.symbol for bar in bars] == ["005930", "0001A0"]
    assert bad == [(3, "high"), (4, "row"), (5, "open"), (6, "symbol"), (7, "row"), (8, "open")]


# LEAN -----------------------------------------------------------------------------------------------------


def test_each_trade_carries_the_quote_that_stood_at_its_moment(lean_day: LeanDay) -> None:
    trades = list(read_ticks(lean_day.ibm_trades, "IBM", DAY))
    quotes = list(read_quotes(lean_day.ibm_quotes, DAY))
    assert (len(trades), len(quotes)) == (lean_day.facts.ibm_trades, lean_day.facts.ibm_quotes)
    joined = list(join_quotes(trades, quotes))
    left = pl.DataFrame({"time": [tick.time for tick in trades]})
    for side in ("bid", "ask"):
        right = pl.DataFrame(
            {"time": [q.time for q in quotes], side: [getattr(q, side) for q in quotes]},
            schema={"time": pl.Datetime("us", "UTC"), side: pl.Decimal(18, 8)},
        ).drop_nulls()
        wanted = left.join_asof(right, on="time", strategy="backward")[side].to_list()
        assert [getattr(tick, side) for tick in joined] == wanted
    assert sum(tick.bid is not None and tick.ask is not None for tick in joined) > len(trades) * 0.98
    assert [(t.time, t.price, t.volume) for t in joined] == [(t.time, t.price, t.volume) for t in trades]


def test_join_of_rows_that_go_back_in_time_is_refused(generated_day: LeanDay) -> None:
    first = read_ticks(generated_day.ibm_trades, "IBM", DAY)
    trades = [next(first), next(first)]
    with pytest.raises(InvalidRecord, match=r"time: trade at .* comes after"):
        list(join_quotes(reversed(trades), []))
    quotes = [Quote(trades[0].time, None, Decimal(1)), Quote(trades[0].time - dt.timedelta(1), None, Decimal(1))]
    with pytest.raises(InvalidRecord, match=r"time: quote at .* comes after"):
        list(join_quotes(trades, quotes))


def test_daily_bars_of_lean(lean_day: LeanDay) -> None:
    bars = read("lean-daily", lean_day.spy_days, symbol="SPY")
    assert len(bars) == lean_day.facts.days
    assert (bars[0].time, bars[0].open) == (dt.datetime(1998, 1, 2, 5, tzinfo=dt.UTC), Decimal("97.31"))


def test_bad_rows_of_lean_are_named_and_the_reading_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    good = b"34200000,1674100,100,P,0,0\n"
    path.write_bytes(good + b"34200001,abc,1,P,0,0\n" + good + b"x" * 200_000 + b"\r\n" + good + b"34200002,1\n" + good)
    ticks, bad = refused("lean-trade", path, symbol="SPY", date=DAY)
    assert len(ticks) == 4
    assert bad == [(2, "price"), (4, "row"), (6, "row")]


def test_minutes_of_lean(lean_day: LeanDay, tmp_path: Path) -> None:
    bars = read("lean-minute", lean_day.spy_minutes, symbol="SPY", date=DAY)
    assert (len(bars), {bar.source for bar in bars}) == (lean_day.facts.minutes, {"lean"})
    path = tmp_path / "20131007_trade.csv"
    good = "34200000,1674100,1674500,1673900,1674200,3197\n"
    path.write_text(good + good.replace("34200000", "34260000").replace("1674500", "1") + "1,2\n" + good)
    bars, bad = refused("lean-minute", path, symbol="SPY", date=DAY, source="mine")
    assert [(bar.time, bar.source) for bar in bars] == 2 * [(dt.datetime(2013, 10, 7, 13, 30, tzinfo=dt.UTC), "mine")]
    assert bad == [(2, "open"), (3, "row")]
    with pytest.raises(InvalidRecord, match="row 2: open: "):
        read("lean-minute", path, symbol="SPY", date=DAY)
    with pytest.raises(InvalidRecord, match="date: 9999-01-01 has not begun anywhere"):
        read("lean-minute", path, symbol="SPY", date=dt.date(9999, 1, 1))
    for missing in ({"symbol": "SPY"}, {"date": DAY}):
        with pytest.raises(InvalidRecord, match="a file of layout lean-minute does not say it; give it"):
            read("lean-minute", path, **missing)


@pytest.mark.parametrize("time_ms", [34_201_000, 34_200_001])
def test_a_file_of_seconds_does_not_pass_for_one_of_minutes(tmp_path: Path, time_ms: int) -> None:
    path = tmp_path / "20131007_trade.csv"
    figures = "1674100,1674500,1673900,1674200,3197\n"
    path.write_text(f"34200000,{figures}{time_ms},{figures}34260000,{figures}")
    with pytest.raises(InvalidRecord, match=r"file: .*20131007_trade\.csv holds no bars of a minute, but of seconds: "):
        refused("lean-minute", path, symbol="SPY", date=DAY)
    assert len(list(read_bars(path, "SPY", DAY))) == 3


@pytest.mark.parametrize("size", [65_530, 65_536, 131_072, 200_000])
def test_a_line_beyond_all_measure_is_one_line(tmp_path: Path, size: int) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a\r\n" + b"x" * size + b"\r\n" + b"b\r\nc")
    lines = list(read_lines(path))
    assert (len(lines), lines[0], lines[2:]) == (4, b"a", [b"b", b"c"])
    assert 256 < len(lines[1]) <= size


# Any CSV --------------------------------------------------------------------------------------------------

HEADER = "ts,ticker,px,size,b,a"
COLUMNS = {"time": "ts", "symbol": "ticker", "price": "px", "volume": "size", "bid": "b", "ask": "a"}
GOOD = "2026-01-02T00:00:00.123456+00:00,005930,71500,10,71400,71600"


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (GOOD.replace("71500", "NaN"), "price"),
        (GOOD.replace("71500", "-71500"), "price"),
        (GOOD.replace("71500", "0"), "price"),
        (GOOD.replace("71400", "71700"), "bid"),
        (GOOD.replace("+00:00", ""), "time"),
        (GOOD.replace("2026", "9026"), "time"),
        (GOOD.replace("71500", "12345678901"), "price"),
        (GOOD.replace("005930", ""), "symbol"),
        (GOOD[:20], "row"),
        (GOOD + ",1", "row"),
        (GOOD.replace("005930", "005\udcff930"), "row"),
        ("\ufeff" + GOOD, "row"),
        (GOOD.replace("10,", "1\r0,"), "row"),
        (GOOD.replace("005930", '"005930'), "row"),
        (GOOD.replace("71500", '"71,500"'), "price"),
    ],
    ids=[
        "NaN", "negative price", "zero price", "bid above ask", "naive time", "future", "overflow", "empty symbol",
        "truncated line", "wrong column count", "broken encoding", "BOM", "carriage return", "quotes", "thousands",
    ],
)  # fmt: skip
def test_bad_row_of_any_kind_spares_its_neighbours(tmp_path: Path, row: str, field: str) -> None:
    """The bad row is named by its number and field."""
    path = tmp_path / "t.csv"
    path.write_bytes(f"{HEADER}\r\n{GOOD}\r\n{row}\r\n{GOOD}".encode("utf-8", "surrogateescape"))
    good, bad = refused("csv", path, columns=COLUMNS)
    assert (len(good), bad) == (2, [(3, field)])
    with pytest.raises(InvalidRecord, match="row 3: "):
        read("csv", path, columns=COLUMNS)


def test_a_csv_of_any_making(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(
        '\ufeffwhen;last;qty;n\r\n02/01/2026 09:00:01;71500.5;1;7\r\n02/01/2026 09:00:02;"71501";2;\r\n'.encode()
    )
    ticks = read(
        "csv", path, symbol="005930", source="x", time_zone="Asia/Seoul", time_format="%d/%m/%Y %H:%M:%S",
        delimiter=";", columns={"time": "when", "price": "last", "volume": "qty", "seq": "n"},
    )  # fmt: skip
    assert ticks == [
        TickData(time=dt.datetime(2026, 1, 2, 0, 0, second, tzinfo=dt.UTC), symbol="005930", source="x",
                 price=Decimal(price), volume=Decimal(volume), seq=seq)
        for second, price, volume, seq in [(1, "71500.5", 1, 7), (2, "71501", 2, None)]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("unit", "text"),
    [("s", "1767312000.5"), ("ms", "1767312000500"), ("us", "1767312000500000"), ("ns", "1767312000500000000")],
)
def test_times_since_1970_in_every_unit(tmp_path: Path, unit: str, text: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"time,price,volume\n{text},1,1\n{text}.0000001,1,1\n")
    ticks, bad = refused("csv", path, symbol="A", time_format=unit)
    assert [tick.time for tick in ticks] == [dt.datetime(2026, 1, 2, 0, 0, 0, 500_000, tzinfo=dt.UTC)]
    assert bad == [(3, "time")]


def test_clocks_that_show_a_time_twice_or_never_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("time,price,volume\n2025-11-02 01:30:00,1,1\n2025-03-09 02:30:00,1,1\n2025-11-02 03:00:00,1,1\n")
    ticks, bad = refused("csv", path, symbol="A", time_zone="America/New_York")
    assert [tick.time.hour for tick in ticks] == [8]
    assert bad == [(2, "time"), (3, "time")]


@pytest.mark.parametrize(
    ("time_format", "time", "reason"),
    [
        ("ns", "1E40", "outside the years"),
        ("ns", "9" * 5_000, "outside the years"),
        ("s", "1E999", "outside the years"),
        ("us", "-1E20", "outside the years"),
        ("s", "1E-999", "fraction of a microsecond"),
        ("s", "1767312000.50000000000000000000000000001", "fraction of a microsecond"),
        ("ns", "1767312000500000000." + "0" * 5_000 + "1", "fraction of a microsecond"),
        ("iso", "0001-01-01T00:00:00+09:00", "outside the years"),
        ("iso", "9999-12-31T23:00:00-09:00", "outside the years"),
        ("iso", "0001-01-01T00:00:00", "outside the years"),
        ("%Y-%m-%d %H:%M:%S", "0001-01-01 00:00:00", "outside the years"),
        ("%Y-%m-%d %H:%M:%S %z", "0001-01-01 00:00:00 +0900", "outside the years"),
        ("iso", "9999-12-31T23:59:59", "after the clock of this machine"),
        ("iso", "2026-01-02T00:00:00.123456789+00:00", "fraction of a microsecond"),
        ("iso", "20260102T000000,1234560001+0000", "fraction of a microsecond"),
    ],
)
def test_time_that_cannot_be_stored_is_a_bad_row(tmp_path: Path, time_format: str, time: str, reason: str) -> None:
    """The rows before and after it are read."""
    good = {"s": "1767312000", "us": "1767312000000000", "ns": "1767312000000000000", "iso": "2026-01-02T00:00:00Z"}
    fine = good.get(time_format) or "2026-01-02 00:00:00" + (" +0000" if "z" in time_format else "")
    path = tmp_path / "t.csv"
    path.write_text(f'time,price,volume\n{fine},1,1\n"{time}",1,1\n{fine},1,1\n')
    complaints: list[InvalidRecord] = []
    options = ReadOptions(symbol="A", time_format=time_format, time_zone="Asia/Seoul")
    ticks = list(read_file("csv", path, options, lambda error, _: complaints.append(error)))
    assert len(ticks) == 2
    assert [(error.row, error.field) for error in complaints] == [(3, "time")]
    assert reason in complaints[0].reason


@pytest.mark.parametrize("text", ["2026-01-02T00:00:00.123456000Z", "2026-01-02T00:00:00.1234560Z"])
def test_zeros_behind_the_microseconds_say_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"time,price,volume\n{text},1,1\n")
    (tick,) = read("csv", path, symbol="A")
    assert tick.time == dt.datetime(2026, 1, 2, 0, 0, 0, 123_456, tzinfo=dt.UTC)


@pytest.mark.parametrize("seq", ["9" * 5_000, "1" * 20, "9223372036854775808", "1.5", "\u0661"])
def test_impossible_sequence_number_is_a_bad_row(tmp_path: Path, seq: str) -> None:
    """The rows before and after it are read."""
    path = tmp_path / "t.csv"
    rows = "".join(f"2026-01-02T00:00:00Z,1,1,{number}\n" for number in (1, seq, "0" * 30 + "2"))
    path.write_text(f"time,price,volume,seq\n{rows}", encoding="utf-8")
    ticks, bad = refused("csv", path, symbol="A")
    assert ([tick.seq for tick in ticks], bad) == ([1, 2], [(3, "seq")])


def test_a_time_of_day_is_of_the_day_that_is_given(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("time,price,volume\n09:00:00,1,1\n23:30:00,1,1\n")
    day = dt.date(2026, 1, 2)
    ticks = read("csv", path, symbol="A", time_format="%H:%M:%S", time_zone="Asia/Seoul", date=day)
    assert [tick.time for tick in ticks] == [
        dt.datetime(2026, 1, 2, 0, 0, tzinfo=dt.UTC), dt.datetime(2026, 1, 2, 14, 30, tzinfo=dt.UTC),
    ]  # fmt: skip
    path.write_text("time,price,volume\n09:00:00 -0500,1,1\n")
    (tick,) = read("csv", path, symbol="A", time_format="%H:%M:%S %z", date=day)
    assert tick.time == dt.datetime(2026, 1, 2, 14, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("%Y-%m-%d %H:%M:%S %Z", "names of zones are not read"),
        ("%H:%M:%S", "says no date; give the day"),
        ("%m-%d %H:%M:%S", "half a date"),
        ("%Y-%m %H:%M", "half a date"),
        ("%%Y-%%m-%%d %H", "says no date"),
        ("%G-%V", "half a date"),
    ],
)
def test_time_pattern_without_zone_or_date_is_refused(tmp_path: Path, pattern: str, reason: str) -> None:
    """Such a pattern would lose the zone or the date of a time."""
    path = tmp_path / "t.csv"
    path.write_text("time,price,volume\n")
    with pytest.raises(ConfigurationError, match=reason):
        read("csv", path, symbol="A", time_format=pattern, time_zone="Asia/Seoul")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("%d.%m.%y %H", "02.01.26 09"),
        ("%Y%j %H", "2026002 09"),
        ("%d %b %Y %H", "02 Jan 2026 09"),
        ("%G-W%V-%u %H", "2026-W01-5 09"),
        ("%Y %W %a %H", "2026 00 Fri 09"),
        ("%Y-%m-%d %%Z %H", "2026-01-02 %Z 09"),
    ],
)
def test_date_may_be_written_in_many_ways(tmp_path: Path, pattern: str, text: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"time,price,volume\n{text},1,1\n")
    (tick,) = read("csv", path, symbol="A", time_format=pattern, time_zone="Asia/Seoul")
    assert tick.time == dt.datetime(2026, 1, 2, tzinfo=dt.UTC)


def test_given_symbol_and_source_override_those_of_the_file(tmp_path: Path) -> None:
    """An empty source that is given counts as given."""
    path = tmp_path / "t.csv"
    path.write_text("time,price,volume,symbol,source\n2026-01-02T00:00:00Z,1,1,A,a\n2026-01-02T00:00:00Z,1,1,A,\n")
    assert [(tick.symbol, tick.source) for tick in read("csv", path)] == [("A", "a"), ("A", "")]
    given = read("csv", path, symbol="B", source="b")
    assert [(tick.symbol, tick.source) for tick in given] == [("B", "b")] * 2
    assert [tick.source for tick in read("csv", path, source="")] == ["", ""]


def test_file_that_cannot_be_a_csv_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("time,price,volume\n")
    with pytest.raises(InvalidRecord, match="symbol: the column 'symbol' is missing"):
        read("csv", path)
    with pytest.raises(InvalidRecord, match="price: the column 'px' is missing"):
        read("csv", path, symbol="A", columns={"price": "px"})
    with pytest.raises(ConfigurationError, match="no column 'prize'"):
        read("csv", path, symbol="A", columns={"prize": "px"})
    with pytest.raises(ConfigurationError, match="the delimiter is one character"):
        read("csv", path, symbol="A", delimiter="")
    with pytest.raises(ConfigurationError, match="unknown time zone 'Mars'"):
        read("csv", path, symbol="A", time_zone="Mars")


def test_every_layout_has_a_kind_and_bars_have_a_length(tmp_path: Path) -> None:
    assert {layout.kind for layout in FORMATS.values()} == {"ticks", "bars"}
    for name, layout in FORMATS.items():
        assert (layout.length is not None) == (layout.kind == "bars"), name
    assert bar_length("lean-minute", tmp_path) == "1m"
    assert bar_length("krx-daily", tmp_path) == "1d"
    with pytest.raises(InvalidRecord, match="a file of layout csv holds trades, no bars"):
        bar_length("csv", tmp_path)
