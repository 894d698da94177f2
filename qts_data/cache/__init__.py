"""The hot tier: values that the engine needs before each order, kept in Redis and fenced by commits."""

from qts_data.cache.breaker import Breaker, BreakerState
from qts_data.cache.codec import Codec, ForeignRecord, JsonCodec, RecordCodec
from qts_data.cache.decorator import CacheAccess, cached
from qts_data.cache.manager import CacheManager, Loaders
from qts_data.cache.memory import MemoryCache
from qts_data.cache.port import MISSING, Cache, Entry, Missing, Write, version_text
from qts_data.cache.redis import RedisCache

__all__ = [
    "MISSING",
    "Breaker",
    "BreakerState",
    "Cache",
    "CacheAccess",
    "CacheManager",
    "Codec",
    "Entry",
    "ForeignRecord",
    "JsonCodec",
    "Loaders",
    "MemoryCache",
    "Missing",
    "RecordCodec",
    "RedisCache",
    "Write",
    "cached",
    "version_text",
]
