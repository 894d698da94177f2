"""The Redis that cache tests will use is real, and empty at the start of each test."""

from __future__ import annotations

import pytest
import redis


@pytest.mark.parametrize("attempt", [1, 2])
def test_redis_answers_and_begins_empty(redis_url: str, attempt: int) -> None:
    with redis.Redis.from_url(redis_url, legacy_responses=False) as client:
        assert client.dbsize() == 0
        client.set("attempt", attempt, px=60_000)
        assert client.get("attempt") == str(attempt).encode()
