"""Any set of declarations is migrated to any other set, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from qts_data.database.engine import engine
from qts_data.timescale import Columnstore
from tests.fixtures.catalog import difference
from tests.fixtures.effort import amount
from tests.fixtures.metrics import build, catalog_of, code, generate, migrate_and_back, run, schema

if TYPE_CHECKING:
    from tests.fixtures.fix_server import ServerUnderTest

COLUMNSTORES = (
    Columnstore.of(segment_by=["device"], order_by=["minute DESC"], after="20 days"),
    Columnstore.of(segment_by=[], order_by=["device", "minute"]),
)
CASES = amount(2, 8, "QTS_TEST_AUTOGENERATE_CASES")


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Valid declarations: windows inside the retention, and so on."""
    retention = draw(st.sampled_from([None, "15 days", "20 days", "360 hours"]))
    segment = draw(st.sampled_from([None, ("device",), ("device", "room"), ("room",)]))
    order = (
        ("at DESC",)
        if segment and "device" in segment
        else draw(st.sampled_from([("at", "device"), ("device", "at DESC")]))
    )
    cold = draw(st.sampled_from([(), (("10 days", "1 hour", "1 hour"),), (("9 days", "2 hours", "30 minutes"),)]))
    hot = draw(st.sampled_from([(), (("1 hour", "1 minute", "1 minute"),)]))
    return {
        "chunk": draw(st.sampled_from(["1 day", "24 hours", "12 hours", "2 days"])),
        "segment": segment,
        "order": order,
        "columnstore_after": draw(st.sampled_from([None, "2 days", "3 days"])),
        "retention": retention,
        "refresh": cold + hot,
        "minute_columnstore": draw(st.sampled_from([None, *COLUMNSTORES])),
        "minute_comment": draw(st.sampled_from(["Minutes", "It's 1 %"])),
        "minute_retention": draw(st.sampled_from([None, "60 days", "50 days"])),
        "average": draw(st.booleans()),
        "hour": draw(st.booleans()),
        "hour_dropped": False,
        "hour_index": draw(st.booleans()),
        "materialized_only": draw(st.booleans()),
        "minute_chunk": draw(st.sampled_from(["10 days", "5 days"])),
        "extra_column": draw(st.booleans()),
        "reorder": draw(st.sampled_from([None, "ix_metrics_room", "uq_metrics"])),
    }


@pytest.mark.soak
@settings(
    max_examples=CASES,
    deadline=None,
    # Shrinking takes minutes of a server's time, and a failure prints both sets of declarations.
    phases=[phase for phase in Phase if phase is not Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(before=configurations(), after=configurations(), data=st.sampled_from([False, False, True]))
def test_any_declarations_become_any_others_and_back(
    server: ServerUnderTest, before: dict[str, Any], after: dict[str, Any], data: bool
) -> None:
    if before["hour"] and not after["hour"]:
        after["hour_dropped"] = True  # an aggregate that is merely no longer declared is left alone
    url, direct = server.create_database(), server.create_database()
    try:
        build(url, schema(**before), data=data)
        migrate_and_back(url, schema(**after), allow_data_loss=True)
        # The migrated database equals the one that is built at once.
        with engine(url).connect() as connection:
            up = code(generate(connection, schema(**after)).upgrade_ops)
        run(url, up, timescale_allow_data_loss=True)
        build(direct, schema(**after), data=False)
        left, right = catalog_of(url), catalog_of(direct)
        paced = {"policy_compression", "policy_reorder"}
        for catalog in (left, right):
            del catalog["privileges"]  # grants by hand are on the objects of before
            # The server chooses their interval by the chunks that existed when they were made.
            # A server without the extension has no jobs at all.
            catalog["jobs"] = [row[:2] + row[3:] if row[0] in paced else row for row in catalog.get("jobs", [])]
        assert difference(left, right) == {}
    finally:
        server.drop_database(url)
        server.drop_database(direct)
