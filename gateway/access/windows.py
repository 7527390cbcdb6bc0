"""What does Redis remember of a key's limits? One script, which makes, renews and settles reservations atomically.

Four keys in Redis for each API key: the counts of the current windows, the leases of running requests, the leases that
expired and were charged, and the settlements of the last minutes.

    reserve   a check of the limits, then a lease for the most that the request can spend
    renew     the lease lasts longer; one that Redis does not know is taken without a check
    settle    what was spent replaces the lease, once
    (expire)  a lease that is not renewed is charged: its tokens count as spent in the window in which it expired

So nobody can spend a reservation again because its gateway is frozen or dead. A settlement that comes after the charge
gives back what was not spent, if the window of the charge still runs.

**Windows never go back.** If Redis' clock does, the window that it had reached goes on until the clock is there again.
If it is more than `WILD_DAYS` behind, the clock had been wrong before: the window becomes the clock's, and what was
counted is kept. What was counted before such a jump forward is lost, so each one may admit a limit once more.
"""

from __future__ import annotations

LEASE_SECONDS = 120
RENEW_SECONDS = 30.0
REMEMBER_SETTLED_SECONDS = 900
"""How long a settlement is remembered, so that it counts once even if it is sent again after an outage of Redis."""
STATE_SECONDS = 2 * 86_400
"""How long anything is remembered of a key that sends nothing; and how late a settlement can give tokens back."""
WILD_DAYS = 2

KEYS = tuple(f"{{{{laconic:limits}}}}:{{}}{part}" for part in ("", ":open", ":settled", ":charged"))
"""Names of the four keys in Redis, with a place for the API key's name. The braces keep them on one shard."""

SCRIPT = """
local time = redis.call('TIME')
local now = tonumber(ARGV[6]) or time[1] + time[2] / 1e6
local lease, remember, state_seconds, wild_days = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local results = {string.format('%.6f', now)}
for i, op in ipairs(cjson.decode(ARGV[1])) do
  local state, open, settled, charged = unpack(KEYS, 4 * i - 3, 4 * i)
  local read = redis.call('HMGET', state, 'minute', 'requests', 'minute_tokens', 'day', 'day_tokens', 'reserved')
  for j = 1, 6 do read[j] = tonumber(read[j]) or 0 end
  local last_minute, requests, minute_tokens, last_day, day_tokens, reserved = unpack(read)

  local minute, day = math.floor(now / 60), math.floor(now / 86400)
  if last_minute > minute then  -- the clock went back, and no lease must outlive that
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', open, now + lease, '+inf')) do
      redis.call('ZADD', open, now + lease, member)
    end
    if last_day > day + wild_days then
      last_minute, last_day = minute, day
      for _, member in ipairs(redis.call('ZRANGEBYSCORE', charged, minute, '+inf')) do
        redis.call('ZADD', charged, minute, member)
      end
    end
  end
  minute, day = math.max(minute, last_minute), math.max(day, last_day)
  if minute ~= last_minute then requests, minute_tokens = 0, 0 end
  if day ~= last_day then day_tokens = 0 end

  local expired = redis.call('ZRANGEBYSCORE', open, '-inf', now, 'WITHSCORES')
  for j = 1, #expired, 2 do
    local tokens, at = tonumber(string.match(expired[j], '%d+$')), tonumber(expired[j + 1])
    local charged_minute = math.max(last_minute, math.floor(at / 60))
    redis.call('ZREM', open, expired[j])
    redis.call('ZREMRANGEBYSCORE', charged, '-inf', minute - state_seconds / 60)
    redis.call('ZADD', charged, charged_minute, expired[j])
    reserved = reserved - tokens
    if charged_minute == minute then minute_tokens = minute_tokens + tokens end
    if math.max(last_day, math.floor(at / 86400)) == day then day_tokens = day_tokens + tokens end
  end

  local refused = ''
  local charge = redis.call('ZSCORE', charged, op.lease)
  local known = charge or redis.call('ZSCORE', open, op.lease) or redis.call('ZSCORE', settled, op.lease)
  if op.kind == 'reserve' then
    if op.max_requests and requests + 1 > op.max_requests then
      refused = 'requests'
    elseif op.max_minute_tokens and minute_tokens + reserved + op.tokens > op.max_minute_tokens then
      refused = 'minute_tokens'
    elseif op.max_day_tokens and day_tokens + reserved + op.tokens > op.max_day_tokens then
      refused = 'day_tokens'
    else
      requests = requests + 1
      if op.tokens > 0 and not known then  -- known: nobody waited for it, and what came after it overtook it
        redis.call('ZADD', open, now + lease, op.lease)
        reserved = reserved + op.tokens
      end
    end
  elseif op.kind == 'settle' then
    redis.call('ZREMRANGEBYSCORE', settled, '-inf', now)
    if redis.call('ZADD', settled, 'NX', now + remember, op.lease) == 1 then
      local spent = op.spent
      if redis.call('ZREM', open, op.lease) == 1 then
        reserved = reserved - op.tokens
      elseif charge then
        local unspent = math.max(0, op.tokens - op.spent)
        redis.call('ZREM', charged, op.lease)
        if tonumber(charge) == minute then minute_tokens = math.max(0, minute_tokens - unspent) end
        if math.floor(charge / 1440) == day then day_tokens = math.max(0, day_tokens - unspent) end
        spent = math.max(0, op.spent - op.tokens)
      end
      minute_tokens, day_tokens = minute_tokens + spent, day_tokens + spent
    end
  elseif redis.call('ZADD', open, 'XX', 'CH', now + lease, op.lease) == 0 and not known then
    redis.call('ZADD', open, now + lease, op.lease)
    reserved = reserved + op.tokens
  end

  redis.call('HSET', state, 'minute', minute, 'requests', requests, 'minute_tokens', minute_tokens,
    'day', day, 'day_tokens', day_tokens, 'reserved', reserved)
  for _, key in ipairs({state, open, settled, charged}) do redis.call('EXPIRE', key, state_seconds) end
  results[#results + 1] = {refused, requests, minute_tokens, day_tokens, reserved, minute}
end
return results
"""
