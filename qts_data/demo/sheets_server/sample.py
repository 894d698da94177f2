"""A sample book to move, like sheets that people kept for years, with a ledger and positions that agree."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from qts_data.contracts import LedgerEntry, Position
from qts_data.importers.tables import cell_of_decimal
from qts_data.rules.booking import book

if TYPE_CHECKING:
    from qts_data.demo.sheets_server.workbook import Workbook

__all__ = ["fill_book"]

_OPENING: Final = dt.datetime(2026, 1, 5, 0, 0, tzinfo=dt.UTC)
_EPOCH: Final = dt.datetime(1899, 12, 30, tzinfo=dt.UTC)
_KST: Final = dt.timedelta(hours=9)


def _serial(instant: dt.datetime) -> float:
    """Write an instant as a sheet in Korea stores it."""
    return (instant + _KST - _EPOCH) / dt.timedelta(days=1)


def fill_book(workbook: Workbook, *, positions: int, fills: int, seed: int = 1, days: int = 20) -> None:
    """Fill every sheet. The first tenth of the positions is older than the ledger and has no fills.

    Args:
        workbook: The workbook to fill.
        positions: Number of positions.
        fills: Number of fills. Each position with fills has at least one, if there are enough.
        seed: Decides all random values.
        days: Number of days over which the fills are spread.
    """
    dice = random.Random(seed)  # noqa: S311 - the same book every time
    symbols = [f"{number:06d}" for number in range(1, positions + 1)]
    silent = symbols[: positions // 10]
    traded = symbols[positions // 10 :]
    held: dict[str, Position] = {}
    ledger: list[list[Any]] = [
        ["체결일시", "종목코드", "매매구분", "수량", "체결단가", "수수료", "전략", "체결번호", "취소체결번호"]
    ]
    for number in range(fills):
        symbol = traded[number % len(traded)] if number < len(traded) else dice.choice(traded)
        at = _OPENING + dt.timedelta(days=number * days // fills, milliseconds=number)
        entry = LedgerEntry(
            timestamp=at, symbol=symbol, market="KRX", side="BUY" if dice.random() < 0.6 else "SELL",
            qty=Decimal(dice.randrange(1, 10_000)).scaleb(-2), price=Decimal(dice.randrange(1_000, 100_000)),
            currency="KRW", broker="test", execution_id=f"X{number}", fee=Decimal(dice.randrange(100)),
        )  # fmt: skip
        held[symbol] = book(held.get(symbol), entry, number + 1, at).position
        ledger.append(
            [
                _serial(at), symbol, "매수" if entry.side == "BUY" else "매도", cell_of_decimal(entry.qty),
                f"₩{int(entry.price):,}" if number % 7 == 0 else int(entry.price), int(entry.fee), "grid",
                f"X{number}",
            ]
        )  # fmt: skip
    workbook.put("T_Ledger", ledger)
    rows: list[list[Any]] = [["종목코드", "시장", "보유수량", "평균단가", "통화"]]
    rows += [[symbol, "KRX", 10, 5000.5, "KRW"] for symbol in silent]
    rows += [
        [symbol, "KRX", cell_of_decimal(one.qty), cell_of_decimal(one.avg_price), "KRW"] for symbol, one in held.items()
    ]
    workbook.put("Position", rows)
    bars: list[list[Any]] = [["날짜", "종목코드", "시가", "고가", "저가", "종가", "거래량"]]
    for symbol in symbols[:3]:
        for day in range(5):
            low = dice.randrange(1000, 2000)
            bars.append([46027 + day, symbol, low + 1, low + 9, low, low + 5, dice.randrange(10**6)])
    workbook.put("History", bars)
    parameters: list[list[Any]] = [["전략", "파라미터", "값", "설명"], ["grid", "levels", 12, "rungs"]]
    parameters += [["grid", "step", "0.10", None], ["grid", "live", True, ""]]
    workbook.put("Strategy", parameters)
    workbook.put("Config", [["key", "value"], ["timezone", "Asia/Seoul"], ["retries", 3]])
    limits: list[list[Any]] = [["key", "value", "note"], ["max_weight", "12%", "share"]]
    workbook.put("Risk Config", [*limits, ["max_loss", 1500000.5, "KRW"]])
