"""The hot tier: values that are needed before each order, in Redis, fenced to the commit."""

#from qts_data.cache.breaker import Breaker, BreakerState
#from qts_data.cache.decorator import cached
#from qts_data.cache.keys import Keys
#from qts_data.cache.manager import CacheManager, Loaders
#from qts_data.cache.memory import MemoryCache
#from qts_data.cache.port import MISSING, Cache, Entry, Missing
#from qts_data.cache.redis import RedisCache

