"""Files in LEAN's layouts: real ones are read whole, broken ones are refused with row and column."""

from __future__ import annotations

import datetime as dt
import itertools
import zipfile
from collections import Counter, defaultdict
from decimal import Decimal, localcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qts_data.contracts import any_time
from qts_data.errors import ConfigurationError, InvalidRecord
from qts_data.importers import ReadOptions, read_file
from qts_data.importers.lean_bars import read_bars
from qts_data.importers.lean_trade import read_ticks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qts_data.contracts import OHLCV, TickData
    from tests.fixtures.fix_lean import LeanDay

DAY = dt.date(2013, 10, 7)
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
GOOD_ROW = b"34200123,1674100,100,P,20002000,0"
GOOD_BAR = b"34200000,1674100,1674500,1673900,1674200,3197"


@pytest.fixture(scope="module")
def spy_rows(lean_day: LeanDay) -> list[str]:
    """The rows of the file as text, read by the standard library alone."""
    with zipfile.ZipFile(lean_day.spy_trades) as archive:
        return archive.read(archive.namelist()[0]).decode("ascii").splitlines()


@pytest.fixture(scope="module")
def spy_ticks(lean_day: LeanDay) -> list[TickData]:
    return list(read_ticks(lean_day.spy_trades, "SPY", DAY))


@pytest.fixture(scope="module")
def spy_bars(lean_day: LeanDay) -> list[OHLCV]:
    return list(read_bars(lean_day.spy_minutes, "SPY", DAY))


def csv_file(folder: Path, content: bytes) -> Path:
    path = folder / "day.csv"
    path.write_bytes(content)
    return path


def zip_file(folder: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path = folder / "day.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def ticks_of(path: Path, date: dt.date = DAY, time_zone: str = "America/New_York") -> list[TickData]:
    return list(read_ticks(path, "SPY", date, time_zone=time_zone))


def refusal(path: Path, reader: Callable[[Path, str, dt.date], Iterable[object]] = read_ticks) -> InvalidRecord:
    with pytest.raises(InvalidRecord) as caught:
        list(reader(path, "SPY", DAY))
    return caught.value


def outcome(path: Path) -> list[TickData] | InvalidRecord:
    try:
        return ticks_of(path)
    except InvalidRecord as refused:
        return refused


# A whole day, generated and real ------------------------------------------------------------------------


def instant(time_ms: int) -> dt.datetime:
    midnight = dt.datetime(2013, 10, 7, 4, 0, tzinfo=dt.UTC)  # New York was four hours behind UTC
    return midnight + dt.timedelta(milliseconds=time_ms)


def test_every_trade_of_a_day_loads_in_the_order_of_the_file(
    lean_day: LeanDay, spy_rows: list[str], spy_ticks: list[TickData]
) -> None:
    assert len(spy_ticks) == len(spy_rows) == lean_day.facts.spy_trades
    for row, tick in zip(spy_rows, spy_ticks, strict=True):
        time_ms, price, volume, *_ = row.split(",")
        assert tick.time == instant(int(time_ms))
        assert tick.price * 10_000 == int(price)
        assert tick.volume == int(volume)


def test_a_day_begins_and_ends_when_its_file_does(lean_day: LeanDay, spy_ticks: list[TickData]) -> None:
    ends = (lean_day.facts.first_trade, lean_day.facts.last_trade)
    for tick, (time_ms, price, volume) in zip((spy_ticks[0], spy_ticks[-1]), ends, strict=True):
        assert tick.time == instant(time_ms)
        assert tick.price.as_tuple() == Decimal(f"{price}E-4").as_tuple()
        assert str(tick.volume) == str(volume)
    assert {tick.time.tzinfo for tick in spy_ticks} == {dt.UTC}
    assert all(before.time <= after.time for before, after in itertools.pairwise(spy_ticks))
    assert {(tick.symbol, tick.source, tick.seq, tick.bid, tick.ask) for tick in spy_ticks} == {
        ("SPY", "lean", None, None, None)
    }


def test_the_real_day_begins_when_it_did(real_day: LeanDay) -> None:
    first = next(iter(read_ticks(real_day.spy_trades, "SPY", DAY)))
    assert first.time == dt.datetime(2013, 10, 7, 8, 0, 0, 464_000, tzinfo=dt.UTC)
    assert first.time.astimezone(ZoneInfo("America/New_York")).isoformat() == "2013-10-07T04:00:00.464000-04:00"
    assert (str(first.price), str(first.volume)) == ("167.4100", "100")


def test_trades_that_equal_another_are_all_kept(
    lean_day: LeanDay, spy_rows: list[str], spy_ticks: list[TickData]
) -> None:
    assert len(spy_rows) - len(set(spy_rows)) == lean_day.facts.equal_trades
    # Without exchange and sale condition, which no tick carries, still more are alike.
    assert len(spy_ticks) - len(set(spy_ticks)) == lean_day.facts.alike_trades
    assert max(Counter(tick.time for tick in spy_ticks).values()) == lean_day.facts.longest_burst


def test_minutes_of_ticks_agree_with_the_published_bars(
    lean_day: LeanDay, spy_ticks: list[TickData], spy_bars: list[OHLCV]
) -> None:
    minutes: defaultdict[dt.datetime, list[TickData]] = defaultdict(list)
    for tick in spy_ticks:
        minutes[tick.time.replace(second=0, microsecond=0)].append(tick)
    assert len(spy_bars) == lean_day.facts.minutes
    assert [bar.time for bar in spy_bars] == list(minutes)
    same_volume = same_prices = 0
    for bar in spy_bars:
        ticks = minutes[bar.time]
        prices = [tick.price for tick in ticks]
        same_volume += bar.volume == sum(tick.volume for tick in ticks)
        same_prices += (bar.open, bar.high, bar.low, bar.close) == (prices[0], max(prices), min(prices), prices[-1])
    # The publisher leaves some sale conditions out of the bars, mostly out of their prices.
    assert (same_volume, same_prices) == (lean_day.facts.same_volumes, lean_day.facts.same_prices)


def test_another_share_of_a_day_is_loaded_too(lean_day: LeanDay) -> None:
    ticks = list(read_ticks(lean_day.ibm_trades, "IBM", DAY, source="sample"))
    assert len(ticks) == lean_day.facts.ibm_trades
    assert (ticks[0].symbol, ticks[0].source) == ("IBM", "sample")
    assert ticks[0].time == instant(lean_day.facts.first_ibm_ms)


def test_the_first_tick_comes_before_the_file_is_read_to_its_end(tmp_path: Path) -> None:
    ticks = read_ticks(csv_file(tmp_path, GOOD_ROW + b"\nbroken"), "SPY", DAY)
    assert next(ticks).price == Decimal("167.41")
    with pytest.raises(InvalidRecord, match="row 2"):
        next(ticks)


def test_a_reader_that_is_left_early_closes_its_file(tmp_path: Path) -> None:
    for path in (csv_file(tmp_path, GOOD_ROW), zip_file(tmp_path, {"day.csv": GOOD_ROW})):
        ticks = read_ticks(path, "SPY", DAY)
        next(ticks)
        del ticks  # a file left open is a ResourceWarning, and warnings are errors


# Layout -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"%s\n%s\n", b"%s\n%s", b"%s\r\n%s\r\n", b"\xef\xbb\xbf%s\n%s\n", b"\xef\xbb\xbf%s\r\n%s"]
)
def test_line_ends_and_a_byte_order_mark_make_no_difference(tmp_path: Path, content: bytes) -> None:
    rows = content.replace(b"%s", GOOD_ROW)
    expected = ticks_of(csv_file(tmp_path, GOOD_ROW + b"\n" + GOOD_ROW))
    assert ticks_of(csv_file(tmp_path, rows)) == expected
    assert ticks_of(zip_file(tmp_path, {"20131007_spy_Trade_Tick.csv": rows})) == expected


@pytest.mark.parametrize("method", METHODS)
def test_zip_of_any_common_method_and_folders_is_read(tmp_path: Path, method: int) -> None:
    """The case of the file's ending does not matter."""
    members = {"equity/": b"", "equity/spy/": b"", "equity/spy/day.csv": GOOD_ROW}
    path = zip_file(tmp_path, members, method).rename(tmp_path / "DAY.ZIP")
    assert len(ticks_of(path)) == 1


@pytest.mark.parametrize("exchange", [b"", b"P", b"Q", b"NASDAQ"])
@pytest.mark.parametrize("sale_condition", [b"", b"0", b"20002020", b"8000000A"])
@pytest.mark.parametrize("suspicious", [b"0", b"1"])
def test_rows_of_any_exchange_or_condition_are_read(
    tmp_path: Path, exchange: bytes, sale_condition: bytes, suspicious: bytes
) -> None:
    """Suspicious rows are read too."""
    row = b",".join([b"34200123", b"1674100", b"100", exchange, sale_condition, suspicious])
    assert len(ticks_of(csv_file(tmp_path, row))) == 1


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 86_399_999), st.integers(1, 10**14 - 1), st.integers(0, 10**19 - 1)),
        min_size=1,
        max_size=30,
    ),
    zipped=st.booleans(),
)
def test_any_numbers_of_a_file_come_back_exactly(rows: list[tuple[int, int, int]], zipped: bool) -> None:
    content = "\n".join(f"{time_ms},{price},{volume},P,0,0" for time_ms, price, volume in rows).encode()
    # A decimal context of the caller that would round every price to three digits.
    with TemporaryDirectory() as folder, localcontext(prec=3):
        path = zip_file(Path(folder), {"day.csv": content}) if zipped else csv_file(Path(folder), content)
        ticks = ticks_of(path)
    zone = ZoneInfo("America/New_York")
    assert len(ticks) == len(rows)
    for tick, (time_ms, price, volume) in zip(ticks, rows, strict=True):
        local = dt.datetime(2013, 10, 7, tzinfo=zone) + dt.timedelta(milliseconds=time_ms)
        assert tick.time == local
        assert tick.price.as_tuple() == Decimal(f"{price}E-4").as_tuple()
        assert int(tick.volume) == volume


def test_rows_across_two_blocks_stay_whole(tmp_path: Path) -> None:
    """A file is read in blocks, whose borders lie inside rows and line ends."""
    rows = [f"{time_ms},{time_ms + 1},{time_ms % 977},P,0,0" for time_ms in range(0, 40_000_000, 4_001)]
    expected = [(Decimal(time_ms + 1) / 10_000, time_ms % 977) for time_ms in range(0, 40_000_000, 4_001)]
    for end in ("\n", "\r\n"):
        content = end.join(rows).encode()
        assert len(content) > 3 * 65_536
        assert [(tick.price, int(tick.volume)) for tick in ticks_of(csv_file(tmp_path, content))] == expected


def test_a_line_end_of_two_bytes_may_lie_across_two_blocks(tmp_path: Path) -> None:
    # The row that fills the rest of the first block has 50 bytes, all others 33.
    rows = [b"34200123,1674100,100,PPPPPPPPPPPPPPPP,2000200020,0", *[GOOD_ROW] * 4_000]
    content = b"\r\n".join(rows)
    assert content[65_535:65_537] == b"\r\n"
    assert len(ticks_of(csv_file(tmp_path, content))) == len(rows)


def test_a_file_without_line_ends_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = csv_file(tmp_path, GOOD_ROW + b"\n")
    with path.open("ab") as file:
        file.truncate(2**31)  # two gigabytes of zeros that take no room
    assert refusal(path).row == 2


# Clocks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("date", "time_zone", "time_ms", "utc"),
    [
        # On 2013-03-10 New York's clocks leapt from 02:00 to 03:00.
        ("2013-03-10", "America/New_York", 0, "2013-03-10T05:00:00"),
        ("2013-03-10", "America/New_York", 7_199_999, "2013-03-10T06:59:59.999"),
        ("2013-03-10", "America/New_York", 10_800_000, "2013-03-10T07:00:00"),
        ("2013-03-10", "America/New_York", 34_200_000, "2013-03-10T13:30:00"),
        # On 2013-11-03 they showed 01:00 to 02:00 twice.
        ("2013-11-03", "America/New_York", 3_599_999, "2013-11-03T04:59:59.999"),
        ("2013-11-03", "America/New_York", 7_200_000, "2013-11-03T07:00:00"),
        ("2013-11-03", "America/New_York", 34_200_000, "2013-11-03T14:30:00"),
        ("2013-11-03", "America/New_York", 86_399_999, "2013-11-04T04:59:59.999"),
        ("2013-10-07", "Asia/Seoul", 32_400_000, "2013-10-07T00:00:00"),
        ("2013-10-07", "UTC", 1, "2013-10-07T00:00:00.001"),
    ],
)
def test_number_of_a_row_is_the_local_time(tmp_path: Path, date: str, time_zone: str, time_ms: int, utc: str) -> None:
    path = csv_file(tmp_path, b"%d,1674100,100,P,0,0" % time_ms)
    [tick] = ticks_of(path, dt.date.fromisoformat(date), time_zone)
    assert tick.time == dt.datetime.fromisoformat(utc).replace(tzinfo=dt.UTC)
    assert tick.time.tzinfo is dt.UTC


@pytest.mark.parametrize(
    ("date", "time_ms", "reason"),
    [
        ("2013-03-10", 7_200_000, "leapt over"),
        ("2013-03-10", 10_799_999, "leapt over"),
        ("2013-11-03", 3_600_000, "twice"),
        ("2013-11-03", 7_199_999, "twice"),
    ],
)
def test_repeated_or_skipped_time_is_refused_with_its_row(tmp_path: Path, date: str, time_ms: int, reason: str) -> None:
    """A change of the clocks repeated or skipped the local time."""
    path = csv_file(tmp_path, b"0,1674100,100,P,0,0\n%d,1674100,100,P,0,0" % time_ms)
    with pytest.raises(InvalidRecord) as caught:
        ticks_of(path, dt.date.fromisoformat(date))
    assert (caught.value.row, caught.value.field) == (2, "time_ms")
    assert reason in caught.value.reason


@settings(max_examples=50)
@given(
    date=st.dates(dt.date(1972, 2, 1), dt.date(2037, 12, 31)),
    zone=st.timezones(),
    times=st.lists(st.integers(0, 86_399_999), min_size=1, max_size=20),
)
def test_time_is_read_exactly_if_its_zone_showed_it_once(date: dt.date, zone: ZoneInfo, times: list[int]) -> None:
    """Random zones, days and times."""
    for time_ms in times:
        local = dt.datetime.combine(date, dt.time.min) + dt.timedelta(milliseconds=time_ms)
        moments = {local.replace(tzinfo=zone, fold=fold).astimezone(dt.UTC) for fold in (0, 1)}
        with TemporaryDirectory() as folder:
            path = csv_file(Path(folder), b"%d,1674100,100,P,0,0" % time_ms)
            if len(moments) == 1:
                with any_time():
                    assert {tick.time for tick in ticks_of(path, date, zone.key)} == moments
            else:
                with pytest.raises(InvalidRecord, match="time_ms"):
                    ticks_of(path, date, zone.key)


@pytest.mark.parametrize("date", [dt.date.min, dt.date.max])
def test_a_time_beyond_the_calendar_is_refused(tmp_path: Path, date: dt.date) -> None:
    path = csv_file(tmp_path, b"%d,1674100,100,P,0,0" % (0 if date == dt.date.min else 86_399_999))
    zone = "Asia/Seoul" if date == dt.date.min else "America/New_York"
    with pytest.raises(InvalidRecord, match="outside the years 1 to 9999"):
        ticks_of(path, date, zone)


@pytest.mark.parametrize("time_zone", ["New York", "", "America", "/etc/passwd", "../UTC", "a\0b"])
def test_a_time_zone_that_does_not_exist_is_a_wrong_setting(tmp_path: Path, time_zone: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown time zone"):
        read_ticks(csv_file(tmp_path, GOOD_ROW), "SPY", DAY, time_zone=time_zone)


# Malformed rows -----------------------------------------------------------------------------------------

NO_NUMBERS = [
    "",
    "-5",
    "+5",
    "1.5",
    "1e5",
    "1_000",
    " 100",
    "100 ",
    "100\t",
    "100\r",
    "\x00100",
    '"100"',
    "'100'",
    "1'000",
    "007",
    "00",
    "0x10",
    "NaN",
    "inf",
    "\uff11\uff10\uff10",  # full-width digits, which int() reads as 100
    "\u0661\u0660\u0660",  # Arabic-Indic digits, likewise
    "\u00b2",  # superscript two, a digit to str.isdigit()
    "1 000",
    "\u22125",  # a minus sign other than the hyphen
    "1" * 20,
    "1" * 5_000,
]


@pytest.mark.parametrize("text", NO_NUMBERS, ids=ascii)
@pytest.mark.parametrize(("column", "field"), [(0, "time_ms"), (1, "price"), (2, "volume")])
def test_text_that_is_not_a_whole_number_is_refused(tmp_path: Path, text: str, column: int, field: str) -> None:
    columns = GOOD_ROW.split(b",")
    columns[column] = text.encode()
    for before in (0, 1):
        rows = [*[GOOD_ROW] * before, b",".join(columns), GOOD_ROW]
        refused = refusal(csv_file(tmp_path, b"\n".join(rows)))
        assert (refused.row, refused.field) == (before + 1, field)
        assert "is not a whole number of at least 0 in plain digits" in refused.reason
        assert len(str(refused)) < 300


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        (b"86400000,1674100,100,P,0,0", "time_ms", "'86400000' is beyond the last millisecond of a day, 86399999"),
        (b"9999999999999999999,1674100,100,P,0,0", "time_ms", "is beyond the last millisecond"),
        (b"34200123,0,100,P,0,0", "price", "0 is not a price"),
        (b"34200123,100000000000000,100,P,0,0", "price", "more than 10 digits before the point"),
        (b"34200123,1674100,100,P X,0,0", "exchange", "'P X' is not a code"),
        (b"34200123,1674100,100, P,0,0", "exchange", "' P' is not a code"),
        (b'34200123,1674100,100,"P",0,0', "exchange", "is not a code"),
        (b"34200123,1674100,100,\xc3\xa9,0,0", "exchange", r"'\xc3\xa9' is not a code"),
        (b"34200123,1674100,100,\x1b[31m,0,0", "exchange", r"'\x1b[31m' is not a code"),
        (b"34200123,1674100,100,P,0G,0", "sale_condition", "'0G' is not hexadecimal"),
        (b"34200123,1674100,100,P, 0,0", "sale_condition", "' 0' is not hexadecimal"),
        (b"34200123,1674100,100,P,0,", "suspicious", "'' is neither 0 nor 1"),
        (b"34200123,1674100,100,P,0,2", "suspicious", "'2' is neither 0 nor 1"),
        (b"34200123,1674100,100,P,0,0 ", "suspicious", "'0 ' is neither 0 nor 1"),
        (b"34200123,1674100,100,P,0,False", "suspicious", "'False' is neither 0 nor 1"),
        (b"34200123,1674100,100,P,0,0\r\r", "suspicious", r"'0\r' is neither 0 nor 1"),
        (b"", "row", "has 1 columns instead of 6"),
        (b" ", "row", "has 1 columns instead of 6"),
        (b"34200123", "row", "has 1 columns instead of 6"),
        (b"34200123,1674100,100,P,0", "row", "has 5 columns instead of 6"),
        (b"34200123,1674100,100,P,0,0,", "row", "has 7 columns instead of 6"),
        (b"34200123,1,674,100,100,P,0,0", "row", "has 8 columns instead of 6"),
        (b'34200123,"1,674,100",100,P,0,0', "price", "'\"1' is not a whole number"),
        (b"34200123;1674100;100;P;0;0", "row", "has 1 columns instead of 6"),
        (b"time_ms,price,volume,exchange,sale_condition,suspicious", "time_ms", "'time_ms' is not a whole number"),
        (b"x" * 200_000, "row", "has 1 columns instead of 6"),
        (b"34200123,1674100,100,P,0," + b"0" * 200_000, "suspicious", "is neither 0 nor 1"),
        (GOOD_ROW.decode().encode("utf-16"), "time_ms", "is not a whole number"),
    ],
    ids=lambda value: ascii(value)[:50],
)
def test_a_malformed_row_is_refused_with_its_number_and_column(
    tmp_path: Path, row: bytes, field: str, reason: str
) -> None:
    for before in (0, 1, 2):
        refused = refusal(csv_file(tmp_path, (GOOD_ROW + b"\n") * before + row + b"\n" + GOOD_ROW))
        assert (refused.row, refused.field) == (before + 1, field)
        assert reason in refused.reason
        assert len(str(refused)) < 300


@given(
    content=st.binary(max_size=200)
    | st.lists(st.sampled_from([b"1", b",", b"\n", b"\r", b"0", b"P", b"\xef\xbb\xbf"])).map(b"".join)
)
def test_any_bytes_are_ticks_or_a_refusal_with_its_place(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = csv_file(Path(folder), content)
        found = outcome(path)
    if isinstance(found, InvalidRecord):
        assert found.field
        assert (found.row is None) is (found.field == "file")
    else:
        assert len(found) == content.removesuffix(b"\n").count(b"\n") + 1


@pytest.mark.parametrize("fields", [{"symbol": ""}, {"symbol": "x" * 65}, {"source": "x" * 65}])
def test_impossible_name_is_refused_before_the_file_is_opened(tmp_path: Path, fields: dict[str, str]) -> None:
    """The file does not exist, and the error is about the name."""
    with pytest.raises(InvalidRecord) as caught:
        read_ticks(tmp_path / "absent.csv", fields.get("symbol", "SPY"), DAY, source=fields.get("source", ""))
    assert caught.value.row is None
    assert caught.value.field in fields


# Damaged files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["absent.csv", "absent.zip", "folder.csv", "folder.zip", "a\0b.csv"])
def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "folder.zip").mkdir()
    refused = refusal(tmp_path / name)
    assert (refused.row, refused.field) == (None, "file")
    assert name in refused.reason


@pytest.mark.parametrize("name", ["day.txt", "day", "day.csv.gz"])
def test_a_file_of_an_unknown_kind_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(GOOD_ROW)
    refused = refusal(tmp_path / name)
    assert refused.field == "file"
    assert "neither a .zip nor a .csv" in refused.reason


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    for path in (csv_file(tmp_path, content), zip_file(tmp_path, {"day.csv": content})):
        refused = refusal(path)
        assert (refused.row, refused.field) == (None, "file")
        assert "is empty" in refused.reason


@pytest.mark.parametrize(
    ("members", "count"),
    [
        ({}, 0),
        ({"folder/": b""}, 0),
        ({"a.csv": GOOD_ROW, "b.csv": GOOD_ROW}, 2),
        ({"a.csv": GOOD_ROW, "note": b""}, 2),
    ],
)
def test_a_zip_of_no_or_several_files_is_refused(tmp_path: Path, members: dict[str, bytes], count: int) -> None:
    refused = refusal(zip_file(tmp_path, members))
    assert refused.field == "file"
    assert f"holds {count} files instead of one" in refused.reason


def test_a_zip_that_was_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = zip_file(tmp_path, {"day.csv": b"\n".join([GOOD_ROW] * 20)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert refusal(path).field == "file"


@pytest.mark.parametrize("method", METHODS)
def test_zip_with_a_changed_byte_is_refused_or_unharmed(tmp_path: Path, method: int) -> None:
    """Each byte is changed in turn. The ticks are the same or the file is refused."""
    rows = b"\n".join(b"%d,%d,%d,P,0,0" % (34_200_000 + n, 1_674_100 + n, 100 + n) for n in range(10))
    path = zip_file(tmp_path, {"tägliche.csv": rows}, method)
    whole = path.read_bytes()
    expected = ticks_of(path)
    outcomes: Counter[str] = Counter()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x81]) + whole[position + 1 :])
        found = outcome(path)
        if isinstance(found, InvalidRecord):
            outcomes[found.field] += 1
        else:
            assert found == expected
            outcomes["same"] += 1  # a date or an attribute of the member changed
    assert set(outcomes) == {"file", "same"}
    assert outcomes["file"] > outcomes["same"]


def test_a_csv_that_pretends_to_be_a_zip_is_refused(tmp_path: Path) -> None:
    path = csv_file(tmp_path, GOOD_ROW).rename(tmp_path / "day.zip")
    assert "not a usable zip file" in refusal(path).reason


def test_a_zip_with_a_password_is_refused(tmp_path: Path) -> None:
    path = zip_file(tmp_path, {"day.csv": GOOD_ROW}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag for encryption, in the member's header
    content[content.index(b"PK\x01\x02") + 8] |= 1  # and in the directory
    path.write_bytes(content)
    refused = refusal(path)
    assert refused.field == "file"
    assert "password" in refused.reason


# Bars ---------------------------------------------------------------------------------------------------


def test_a_bar_has_the_publishers_figures(lean_day: LeanDay, spy_bars: list[OHLCV]) -> None:
    first = spy_bars[0]
    time_ms, *figures, volume = map(int, lean_day.facts.first_minute.split(","))
    assert first.time == instant(time_ms)
    assert [price * 10_000 for price in (first.open, first.high, first.low, first.close)] == figures
    assert (first.symbol, first.source, int(first.volume), first.tick_count) == ("SPY", "lean", volume, 0)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (b"34200000,1674100,1674500,1673900,1674200", "row"),
        (b"34200000,1674100,1674500,1673900,1674200,1,1", "row"),
        (b"86400000,1674100,1674500,1673900,1674200,1", "time_ms"),
        (b"34200000,,1674500,1673900,1674200,1", "open"),
        (b"34200000,1674100,0,1673900,1674200,1", "high"),
        (b"34200000,1674100,1674500,-1,1674200,1", "low"),
        (b"34200000,1674100,1674500,1673900,1 674 200,1", "close"),
        (b"34200000,1674100,1674500,1673900,1674200,1.0", "volume"),
        (b"34200000,1674600,1674500,1673900,1674200,1", "open"),
        (b"34200000,1674100,1674500,1673900,1673800,1", "close"),
    ],
)
def test_a_malformed_bar_is_refused_with_its_number_and_column(tmp_path: Path, row: bytes, field: str) -> None:
    refused = refusal(csv_file(tmp_path, GOOD_BAR + b"\n" + row), read_bars)
    assert (refused.row, refused.field) == (2, field)


# Registry -----------------------------------------------------------------------------------------------


def test_a_user_names_the_layout(tmp_path: Path) -> None:
    options = ReadOptions(symbol="SPY", date=DAY, source="other", time_zone="UTC")
    [tick] = read_file("lean-trade", csv_file(tmp_path, GOOD_ROW), options)
    assert (tick.source, tick.time.hour) == ("other", 9)
    with pytest.raises(InvalidRecord, match="symbol: a file of layout lean-trade does not say it"):
        read_file("lean-trade", tmp_path, ReadOptions())
    with pytest.raises(InvalidRecord, match="has not begun anywhere"):
        read_file("lean-trade", tmp_path, ReadOptions(symbol="SPY", date=dt.date(9998, 1, 1)))
