"""What does Redis remember of a key's limits? One script, which makes, renews and settles reservations atomically.

An *account* is an API key's, or a team's. Each has four keys in Redis: the counts of the current windows, the leases of
running requests, the leases that expired and were charged, and the settlements of the last minutes. An operation is
about the key's account, and about the team's if that has limits: a reservation is made in both or in neither.

    reserve   a check of the limits, then a lease for the most that the request can spend
    renew     the lease lasts longer; one that Redis does not know is taken without a check
    settle    what was spent replaces the lease, once
    (expire)  a lease that is not renewed is charged: what it holds counts as spent in the window in which it expired

A lease is named `ID:TOKENS` or `ID:TOKENS:MONEY`, so that what it holds is known when it expires. Money is in
billionths of the currency unit.

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
MONTH_SECONDS = 32 * 86_400
"""The same, of a key that has spent money in this month."""
WILD_DAYS = 2

KEYS = tuple(f"{{{{laconic:limits}}}}:{{}}{part}" for part in ("", ":open", ":settled", ":charged"))
"""Names of an account's four keys in Redis, with a place for its name. The braces keep them on one shard."""
TEAM = "@{}"
"""The name of a team's account. No API key is named like this."""

SCRIPT = """
local time = redis.call('TIME')
local now = tonumber(ARGV[7]) or time[1] + time[2] / 1e6
local lease, remember, state_seconds, wild_days = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local month_seconds = ARGV[6]
local fields = {'minute', 'requests', 'minute_tokens', 'day', 'day_tokens', 'reserved', 'day_money', 'month_money',
  'reserved_money'}

local function month_of(day)  -- months since the year 0 of a day since 1970 (Hinnant, "chrono-compatible algorithms")
  local of_era = (day + 719468) % 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524)
    - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  return (year + math.floor((day + 719468) / 146097) * 400) * 12 + math.floor((5 * of_year + 2) / 153)
end

local function held(member)  -- tokens and money
  local tokens, money = string.match(member, ':(%d+):(%d+)$')
  if tokens then return tonumber(tokens), tonumber(money) end
  return tonumber(string.match(member, '%d+$')), 0
end

local function same_month(one, other) return one == other or month_of(one) == month_of(other) end

local function opened(state, open, settled, charged)  -- an account in the windows of now
  local a = {state = state, open = open, settled = settled, charged = charged}
  local read = redis.call('HMGET', state, unpack(fields))
  for j, name in ipairs(fields) do a[name] = tonumber(read[j]) or 0 end

  local last_minute, last_day = a.minute, a.day
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
  if minute ~= last_minute then a.requests, a.minute_tokens = 0, 0 end
  if day ~= last_day then a.day_tokens, a.day_money = 0, 0 end
  if not same_month(day, last_day) then a.month_money = 0 end
  a.minute, a.day = minute, day

  local expired = redis.call('ZRANGEBYSCORE', open, '-inf', now, 'WITHSCORES')
  for j = 1, #expired, 2 do
    local tokens, money = held(expired[j])
    local at = tonumber(expired[j + 1])
    local charged_minute, charged_day = math.max(last_minute, math.floor(at / 60)), math.max(last_day,
      math.floor(at / 86400))
    redis.call('ZREM', open, expired[j])
    redis.call('ZREMRANGEBYSCORE', charged, '-inf', minute - state_seconds / 60)
    redis.call('ZADD', charged, charged_minute, expired[j])
    a.reserved, a.reserved_money = a.reserved - tokens, a.reserved_money - money
    if charged_minute == minute then a.minute_tokens = a.minute_tokens + tokens end
    if charged_day == day then a.day_tokens, a.day_money = a.day_tokens + tokens, a.day_money + money end
    if same_month(charged_day, day) then a.month_money = a.month_money + money end
  end
  if redis.call('ZCARD', open) == 0 then a.reserved, a.reserved_money = 0, 0 end  -- whatever became of its leases
  return a
end

local function refusal(a, limits, tokens, money)
  if limits.requests and a.requests + 1 > limits.requests then return 'requests' end
  local sums = {minute_tokens = a.reserved + tokens, day_tokens = a.reserved + tokens,
    day_money = a.reserved_money + money, month_money = a.reserved_money + money}
  for _, name in ipairs({'minute_tokens', 'day_tokens', 'day_money', 'month_money'}) do
    if limits[name] and a[name] + sums[name] > limits[name] then return name end
  end
  return ''
end

local function take(a, name, tokens, money)
  redis.call('ZADD', a.open, now + lease, name)
  a.reserved, a.reserved_money = a.reserved + tokens, a.reserved_money + money
end

local function settle(a, op, charge)
  redis.call('ZREMRANGEBYSCORE', a.settled, '-inf', now)
  if redis.call('ZADD', a.settled, 'NX', now + remember, op.lease) ~= 1 then return end
  local spent, cost = op.spent, op.cost or 0
  if redis.call('ZREM', a.open, op.lease) == 1 then
    a.reserved, a.reserved_money = a.reserved - op.tokens, a.reserved_money - op.money
  elseif charge then
    local unspent, saved, day = math.max(0, op.tokens - spent), math.max(0, op.money - cost), math.floor(charge / 1440)
    redis.call('ZREM', a.charged, op.lease)
    if tonumber(charge) == a.minute then a.minute_tokens = math.max(0, a.minute_tokens - unspent) end
    if day == a.day then
      a.day_tokens, a.day_money = math.max(0, a.day_tokens - unspent), math.max(0, a.day_money - saved)
    end
    if same_month(day, a.day) then a.month_money = math.max(0, a.month_money - saved) end
    spent, cost = math.max(0, spent - op.tokens), math.max(0, cost - op.money)
  end
  a.minute_tokens, a.day_tokens = a.minute_tokens + spent, a.day_tokens + spent
  a.day_money, a.month_money = a.day_money + cost, a.month_money + cost
end

local results, at = {string.format('%.6f', now)}, 0
for _, op in ipairs(cjson.decode(ARGV[1])) do
  op.money = op.money or 0
  local accounts, refused, by = {}, '', 0
  for n, limits in ipairs(op.accounts) do
    accounts[n] = opened(unpack(KEYS, at + 1, at + 4))
    at = at + 4
    if op.kind == 'reserve' and refused == '' then
      refused, by = refusal(accounts[n], limits, op.tokens, op.money), n
    end
  end
  local result = {refused, by}
  for _, a in ipairs(accounts) do
    local charge = redis.call('ZSCORE', a.charged, op.lease)
    local known = charge or redis.call('ZSCORE', a.open, op.lease) or redis.call('ZSCORE', a.settled, op.lease)
    if op.kind == 'reserve' and refused == '' then
      a.requests = a.requests + 1
      if op.tokens + op.money > 0 and not known then  -- known: nobody waited for it, and what came after overtook it
        take(a, op.lease, op.tokens, op.money)
      end
    elseif op.kind == 'settle' then
      settle(a, op, charge)
    elseif op.kind == 'renew' and redis.call('ZADD', a.open, 'XX', 'CH', now + lease, op.lease) == 0 and not known then
      take(a, op.lease, op.tokens, op.money)
    end
    local written = {}
    for _, name in ipairs(fields) do
      written[#written + 1] = name
      written[#written + 1] = a[name]
    end
    redis.call('HSET', a.state, unpack(written))
    redis.call('EXPIRE', a.settled, state_seconds)
    -- The state has the sum of the leases, so they must not be forgotten before it.
    local remembered = a.month_money > 0 and month_seconds or state_seconds
    for _, key in ipairs({a.state, a.open, a.charged}) do redis.call('EXPIRE', key, remembered) end
    result[#result + 1] = {a.requests, a.minute_tokens, a.day_tokens, a.reserved, a.minute, a.day_money, a.month_money,
      a.reserved_money}
  end
  results[#results + 1] = result
end
return results
"""
