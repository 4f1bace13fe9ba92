#!lua flags=allow-oom
-- ARGV[19]: equity as text, [20]: Unix microseconds at which it was measured or '', [21]: the trading day as days since
-- 1970, '' for the UTC day, [22]: '0' where the venue itself doesn't trust it, [23]: its currency, '' where not told.
local text, at = ARGV[19], ARGV[20] == '' and now or tonumber(ARGV[20])

local equity = tonumber(text)
if not equity or equity ~= equity or math.abs(equity) == math.huge then
  return refuse('EQUITY', text .. ' is no equity: it has to be a number')
end
if ARGV[22] == '0' then return refuse('EQUITY_UNTRUSTED', 'its venue does not trust it, so it is set aside') end
if at > now + FUTURE_TOLERANCE then return refuse('EQUITY', 'it was measured in the future, at ' .. iso(at)) end

local before = loaded()
if redis.call('HGET', MEASUREMENTS, 'event') == EVENT_ID and before.at then
  return judge(before) -- recorded when it was sent before, whose answer was lost
end
if before.at and at < before.at and before.at <= now + FUTURE_TOLERANCE then
  return refuse('EQUITY', 'a later measurement, of ' .. iso(before.at) .. ', is known already')
end

-- A change of currency is no loss. What came in another one is kept beside, for people to begin anew at. But whoever owes
-- has lost everything, in any currency.
local currency, known = ARGV[23], redis.call('HGET', MEASUREMENTS, 'currency') or ''
local is_other = before.at and currency ~= '' and known ~= '' and currency ~= known
if is_other and equity >= 0 then
  redis.call('HSET', MEASUREMENTS, 'in_other_currency', string.format('%s %s %s', number(at), text, currency))
  return refuse('EQUITY_CURRENCY', string.format(
    'equity is in %s and its high-water mark in %s, so neither is compared: re-base', currency, known))
end
if currency ~= '' and not is_other then redis.call('HSET', MEASUREMENTS, 'currency', currency) end
redis.call('HDEL', MEASUREMENTS, 'in_other_currency')

for _, kind in ipairs({'EQUITY', 'EQUITY_UNTRUSTED', 'EQUITY_CURRENCY'}) do accepted(kind) end
local moved, next_transfer = 0, amount(redis.call('HGET', MEASUREMENTS, 'next_transfer'), 0)
if next_transfer and next_transfer <= at then
  local all = transfers()
  if before.at then moved = moved_between(all, before.at, at) end
  keep_next(all, at)
end
local today = math.floor(at / DAY)
local day = ARGV[21] == '' and today or tonumber(ARGV[21])
-- A day begins once: of two that record, one by UTC and one by a session, the later would begin it at each reading.
local begun = tonumber(before.day or '')
if begun and begun > day and begun <= today + 1 then day = begun end
local state = step(before, at, text, number(day), moved)
save(state)
redis.call('HSET', MEASUREMENTS, 'event', EVENT_ID)
redis.call('RPUSH', READINGS, line_of(state))
redis.call('LTRIM', READINGS, -READINGS_KEPT, -1)
return judge(state)
