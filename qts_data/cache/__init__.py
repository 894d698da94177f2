"""The hot tier: values that are needed before each order, in Redis, fenced to the commit."""

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
