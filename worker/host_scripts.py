"""The Lua scripts of `hosts.py` with their documentation; the names of their keys stand in `state.py`."""

ENTER_HOST = """
-- Lets a caller in at a host: if the host is there, has a place left, and the caller's turn to sign in comes soon.
-- KEYS: 1 away (hash), 2 places (hash), 3 waiting (sorted set), 4 asked (sorted set), 5 turn (string)
-- ARGV: 1 the caller's clock in ms, 2 caller, 3 fence of its lease ('' for one that takes no place), 4 how many places,
--       5 ms between two logins, 6 ms by which logins may come early after a rest, 7 longest wait for a turn in ms,
--       8 ms that a probe may take, 9 ms for which one that waits is waited for, 10 key of a mailbox's lease up to its name
-- Returns 'in', the ms to wait and, for a probe, how many there were; or 'full'; or 'away'.
-- A place is held as long as the lease under whose fence it was taken: whoever is killed leaves it when his lease ends.
-- Whoever has waited longest has the next place kept for him, and the second half of the longest wait for himself; so each
-- comes to be the first and gets in, while the places that are left over go to whoever comes.
local probe = redis.call('HMGET', KEYS[1], 'probe_at', 'probes')
if probe[1] and tonumber(probe[1]) > tonumber(ARGV[1]) then return {'away'} end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now - ARGV[9])) do
  redis.call('ZREM', KEYS[3], gone)
  redis.call('ZREM', KEYS[4], gone)
end
local first = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
local enough = true
if ARGV[3] ~= '' then
  local free = ARGV[4] - redis.call('HLEN', KEYS[2]) + redis.call('HEXISTS', KEYS[2], ARGV[2])
  if free < 2 then
    local held = redis.call('HGETALL', KEYS[2])
    for i = 1, #held, 2 do
      if held[i] ~= ARGV[2] and redis.call('GET', ARGV[10] .. held[i]) ~= held[i + 1] then
        redis.call('HDEL', KEYS[2], held[i])
        free = free + 1
      end
    end
  end
  enough = free > ((not first or first == ARGV[2]) and 0 or 1)
end
local turn = math.max(tonumber(redis.call('GET', KEYS[5]) or '0'), now)
local wait = math.max(0, turn - now - ARGV[6])
if not enough or wait > ARGV[7] / (first == ARGV[2] and 1 or 2) then
  redis.call('ZADD', KEYS[3], 'NX', now, ARGV[2])
  redis.call('ZADD', KEYS[4], now, ARGV[2])
  redis.call('PEXPIRE', KEYS[3], ARGV[9])
  redis.call('PEXPIRE', KEYS[4], ARGV[9])
  return {'full'}
end
redis.call('ZREM', KEYS[3], ARGV[2])
redis.call('ZREM', KEYS[4], ARGV[2])
if probe[1] then redis.call('HSET', KEYS[1], 'probe_at', string.format('%.0f', ARGV[1] + ARGV[8])) end
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
  redis.call('PEXPIRE', KEYS[2], 86400000)
end
turn = turn + ARGV[5]
redis.call('SET', KEYS[5], string.format('%.3f', turn), 'PX', math.ceil(turn - now) + 1000)
return {'in', math.ceil(wait), probe[1] and (probe[2] or '0') or ''}
"""

LEAVE_HOST = """
-- Gives a place back, and a probe that found out nothing.
-- KEYS: 1 away (hash), 2 places (hash)
-- ARGV: 1 caller, 2 fence under which it took its place ('' for none), 3 ms at which the next probe may come ('' as it is)
if ARGV[2] ~= '' and redis.call('HGET', KEYS[2], ARGV[1]) == ARGV[2] then redis.call('HDEL', KEYS[2], ARGV[1]) end
if ARGV[3] ~= '' and redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'probe_at', ARGV[3]) end
return 1
"""

NOTE_HOST_FAILED = """
-- Notes that a mailbox found its host not there, and says whether the host counts as away from now on.
-- KEYS: 1 away (hash), 2 failing (sorted set)
-- ARGV: 1 now in ms, 2 mailbox, 3 how many different mailboxes it takes, 4 ms for which a failure counts, 5 why,
--       6 ms at which the next probe may come, 7 '1' when this was a probe
-- Returns the number of mailboxes when the host is away from now on, -1 when it was before, else 0.
if redis.call('EXISTS', KEYS[1]) == 1 then
  if ARGV[7] == '1' then
    redis.call('HINCRBY', KEYS[1], 'probes', 1)
    redis.call('HSET', KEYS[1], 'probe_at', ARGV[6], 'reason', ARGV[5])
    redis.call('PEXPIRE', KEYS[1], 604800000)
  end
  return -1
end
redis.call('ZADD', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[1] - ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
local failing = redis.call('ZCARD', KEYS[2])
if failing < tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], 'since', ARGV[1], 'mailboxes', failing, 'reason', ARGV[5], 'probes', 0, 'probe_at', ARGV[6])
redis.call('PEXPIRE', KEYS[1], 604800000)
return failing
"""

NOTE_HOST_THERE = """
-- Notes that a mailbox was opened: nothing that failed before counts, and a host that was away is back.
-- KEYS: 1 away (hash), 2 failing (sorted set)
-- Returns when it went away, in ms, or '' when it was not.
local since = redis.call('HGET', KEYS[1], 'since')
redis.call('DEL', KEYS[1], KEYS[2])
return since or ''
"""
