"""Ticks, and the bars that the server computes from them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Mapped, mapped_column

from qts_data.models.base import Base, Instant, Price, Quantity, finite, symbol_length
from qts_data.timescale import (
    AggregateIndex,
    Columnstore,
    RefreshPolicy,
    continuous_aggregate,
    hypertable,
    time_bucket,
)

__all__ = ["OHLCV_1H", "OHLCV_1M", "HistoricTick", "Tick"]


class _TickColumns:
    """Columns of every table of ticks."""

    symbol: Mapped[str] = mapped_column(comment="Instrument, 1 to 64 characters")
    time: Mapped[Instant] = mapped_column(comment="When the trade happened")
    source: Mapped[str] = mapped_column(server_default="", comment="Feed that sent it; '' for the only one")
    seq: Mapped[int] = mapped_column(
        autoincrement=False,
        comment="The feed's sequence number, else the ordinal among the ticks of the same symbol, time and source",
    )
    price: Mapped[Price] = mapped_column(comment="Trade price in the symbol's quote currency")
    volume: Mapped[Quantity] = mapped_column(comment="Traded quantity, zero or more")
    bid: Mapped[Price | None] = mapped_column(comment="Best bid at the trade, if known")
    ask: Mapped[Price | None] = mapped_column(comment="Best ask at the trade, if known")


def _tick_table(comment: str, chunk_interval: str) -> tuple[Any, ...]:
    return (
        sa.PrimaryKeyConstraint("symbol", "time", "source", "seq"),
        symbol_length(),
        *finite("price", "volume", "bid", "ask"),
        sa.CheckConstraint("length(source) <= 64", name="source_length"),
        sa.CheckConstraint("volume >= 0", name="volume_not_negative"),
        {
            "comment": comment,
            "timescaledb_hypertable": {"time_column_name": "time", "chunk_time_interval": chunk_interval},
        },
    )


class Tick(_TickColumns, Base):
    """One trade of one symbol at one feed."""

    __tablename__ = "tick_data"
    __table_args__: Any = _tick_table(
        "Trades as the feeds sent them, exact duplicates included; kept for 7 days", "1 day"
    )


class HistoricTick(_TickColumns, Base):
    """One trade that is kept for ever."""

    __tablename__ = "tick_history"
    __table_args__: Any = _tick_table(
        "Trades that are kept for ever; the same columns as tick_data, without retention", "7 days"
    )


hypertable(
    Tick.__table__,
    columnstore=Columnstore.of(segment_by=["symbol"], order_by=["time DESC", "source", "seq"], after="1 day"),
    retention="7 days",
)
hypertable(
    HistoricTick.__table__,
    columnstore=Columnstore.of(segment_by=["symbol"], order_by=["time DESC", "source", "seq"], after="7 days"),
)


def _in_order(value: sa.ColumnElement[Any], *order: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    # One array serves open and close: the server computes equal aggregates once. TimescaleDB's first() and last()
    # take one sort key, and a ROW(time, seq) as key fails in parallel plans ("input of anonymous composite
    # types is not implemented"). This form runs on every edition, and is as fast.
    return sa.func.array_agg(aggregate_order_by(value, *order), type_=sa.ARRAY(sa.Numeric))


_ticks = Tick.__table__.c
_minute_prices = _in_order(_ticks.price, _ticks.time, _ticks.seq)

_BAR_COMMENTS = {
    "bucket": "Start of the bar; it covers [bucket, bucket + interval)",
    "symbol": "Instrument",
    "source": "Feed that the ticks came from; two feeds of one symbol never share a bar",
    "open": "First price, by time and seq",
    "high": "Highest price",
    "low": "Lowest price",
    "close": "Last price, by time and seq",
    "volume": "Sum of the traded quantities",
    "tick_count": "Number of ticks",
}

OHLCV_1M = continuous_aggregate(
    Base.metadata,
    "ohlcv_1m",
    sa.select(
        time_bucket("1 minute", _ticks.time).label("bucket"),
        _ticks.symbol,
        _ticks.source,
        _minute_prices[1].label("open"),
        sa.func.max(_ticks.price).label("high"),
        sa.func.min(_ticks.price).label("low"),
        _minute_prices[sa.cast(sa.func.count(), sa.Integer)].label("close"),
        sa.func.sum(_ticks.volume).label("volume"),
        sa.func.count().label("tick_count"),
    ).group_by(time_bucket("1 minute", _ticks.time), _ticks.symbol, _ticks.source),
    chunk_interval="10 days",
    refresh=[
        # Adjacent windows: the newest minutes at once, and late ticks of the last days within the hour.
        RefreshPolicy.of(start="1 hour", end="1 minute", every="1 minute"),
        RefreshPolicy.of(start="6 days", end="1 hour", every="1 hour"),
    ],
    retention="30 days",
    indexes=[AggregateIndex("ix_ohlcv_1m_symbol_bucket", ("symbol", "bucket DESC"))],
    comment="One-minute bars of tick_data, for each source; kept for 30 days",
    column_comments=_BAR_COMMENTS,
)

_minutes = OHLCV_1M.c
_hour_opens = _in_order(_minutes.open, _minutes.bucket)
_hour_closes = _in_order(_minutes.close, _minutes.bucket)

OHLCV_1H = continuous_aggregate(
    Base.metadata,
    "ohlcv_1h",
    sa.select(
        time_bucket("1 hour", _minutes.bucket).label("bucket"),
        _minutes.symbol,
        _minutes.source,
        _hour_opens[1].label("open"),
        sa.func.max(_minutes.high).label("high"),
        sa.func.min(_minutes.low).label("low"),
        _hour_closes[sa.cast(sa.func.count(), sa.Integer)].label("close"),
        sa.func.sum(_minutes.volume).label("volume"),
        sa.cast(sa.func.sum(_minutes.tick_count), sa.BigInteger).label("tick_count"),
    ).group_by(time_bucket("1 hour", _minutes.bucket), _minutes.symbol, _minutes.source),
    chunk_interval="100 days",
    refresh=[RefreshPolicy.of(start="7 days", end="1 hour", every="30 minutes")],
    indexes=[AggregateIndex("ix_ohlcv_1h_symbol_bucket", ("symbol", "bucket DESC"))],
    comment="One-hour bars of ohlcv_1m, for each source; kept for ever",
    column_comments=_BAR_COMMENTS,
)
