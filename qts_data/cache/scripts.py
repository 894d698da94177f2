"""Scripts that Redis runs. In one atomic step, each replaces, fences and expires an entry, or reads a book."""

from __future__ import annotations

import hashlib
from typing import Final

__all__ = ["GET_BOOK_SHA", "SCRIPTS", "SET_BOOK_SHA", "SET_SHA"]

# Our own field names begin with an underscore. _ver is the version that fences. _key is the key itself, so that a copy
# under another key is recognized. _at is when the value was read, _exp when it expires, both in milliseconds of the
# server's clock. _gone marks a tombstone. A _gone above 1 is the tombstone's time: values read later are taken,
# whatever their version. Effects are replicated, not the script, so TIME is allowed before a write. An entry that was
# edited by hand (another key, no expiry, a time ahead of the clock) is replaced, and so is a key of another type.
_SET: Final = """\
local time = redis.call('TIME')
local ms = time[1] * 1000 + math.floor(time[2] / 1000)
local version = ARGV[1]
if version == '' then version = string.format('%019.0f', time[1] * 1000000 + time[2]) end
local there = redis.pcall('HMGET', KEYS[1], '_ver', '_key', '_gone', '_at')
if ARGV[1] ~= '' and there[1] and there[2] == KEYS[1] then
  local gone = tonumber(there[3]) or 0
  local newer = there[1] > version
  if gone > 1 then
    local by_time = string.sub(version, 1, 16) == string.format('%016.0f', tonumber(ARGV[4]))
    newer = tonumber(ARGV[4]) <= gone and (newer or not by_time)
  end
  if newer and (tonumber(there[4]) or math.huge) <= ms + 5 and redis.call('PTTL', KEYS[1]) >= 0 then
    return {0, time[1], time[2]}
  end
end
redis.call('DEL', KEYS[1])
if tonumber(ARGV[2]) <= ms then return {0, time[1], time[2]} end
redis.call('HSET', KEYS[1], '_ver', version, '_exp', ARGV[3], '_at', ARGV[4], '_key', KEYS[1])
for i = 5, #ARGV, 1000 do
  redis.call('HSET', KEYS[1], unpack(ARGV, i, math.min(i + 999, #ARGV)))
end
if ARGV[1] == '' then redis.call('HSET', KEYS[1], '_gone', string.format('%.0f', ms)) end
redis.call('PEXPIREAT', KEYS[1], ARGV[2])
return {1, time[1], time[2]}
"""

# _sides is the number of bids and asks. Without it, a side that was evicted alone would be served as empty.
_SET_BOOK: Final = """\
local time = redis.call('TIME')
local ms = time[1] * 1000 + math.floor(time[2] / 1000)
local there = redis.pcall('HMGET', KEYS[3], '_ver', '_key', '_at')
if there[1] and there[2] == KEYS[3] and there[1] > ARGV[1] and (tonumber(there[3]) or math.huge) <= ms + 5
  and redis.call('PTTL', KEYS[3]) >= 0 then
  return {0, time[1], time[2]}
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
if tonumber(ARGV[2]) <= ms then return {0, time[1], time[2]} end
local at = 6
for side = 1, 2 do
  local last = at + 2 * tonumber(ARGV[3 + side]) - 1
  for i = at, last, 1000 do
    redis.call('ZADD', KEYS[side], unpack(ARGV, i, math.min(i + 999, last)))
  end
  at = last + 1
  redis.call('PEXPIREAT', KEYS[side], ARGV[2])
end
redis.call('HSET', KEYS[3], '_ver', ARGV[1], '_exp', ARGV[2], '_at', ARGV[3], '_key', KEYS[3],
  '_sides', ARGV[4] .. ':' .. ARGV[5])
if at <= #ARGV then redis.call('HSET', KEYS[3], unpack(ARGV, at)) end
redis.call('PEXPIREAT', KEYS[3], ARGV[2])
return {1, time[1], time[2]}
"""

# One script: between two commands another process may replace the book, so that bids and asks would not match.
_GET_BOOK: Final = """\
local meta = redis.call('HGETALL', KEYS[3])
if #meta == 0 then return {} end
local last = tonumber(ARGV[1]) - 1
return {meta, redis.call('ZREVRANGE', KEYS[1], 0, last), redis.call('ZRANGE', KEYS[2], 0, last)}
"""

SCRIPTS: Final = (_SET, _SET_BOOK, _GET_BOOK)
SET_SHA, SET_BOOK_SHA, GET_BOOK_SHA = (hashlib.sha1(script.encode()).hexdigest() for script in SCRIPTS)  # noqa: S324
