#!lua flags=allow-oom
-- ARGV[19]: the equity as text at which high-water mark and day begin anew, or '' for the last that was measured, which
-- then stays as old as it is. Where that came in another currency than what is judged from, it is begun in that one.
local text, before = ARGV[19], loaded()

local function stored(field) return redis.call('HGET', MEASUREMENTS, field) or '' end

local by, told = string.match(stored('rebased'), '^(%S+) (.+)$')
if by == EVENT_ID then return {'WITHIN', told} end -- done when it was sent before, whose answer was lost

local other_at, other_equity, other_currency = string.match(stored('in_other_currency'), '^(%d+) (%S+) (%S+)$')
local measured = text == ''
if measured then text = other_equity or stored('equity') end
if text == '' then return {'REFUSED', 'no equity is recorded yet at which it could begin anew'} end
local equity = amount(text, 0)
if not equity or equity == 0 then
  if measured then return {'REFUSED', 'the last equity is ' .. text .. ', from which nothing can be judged'} end
  return refuse('EQUITY', text .. ' is nothing to begin at: it has to be a positive number')
end

local details = details_of({
  'equity', text, 'equity_before', stored('equity'), 'high_water_before', stored('high_water'), 'day_start_before',
  stored('day_start'), 'at', iso(now), 'currency', other_currency or stored('currency'), 'currency_before',
  stored('currency'),
})
local at = measured and (tonumber(other_at or '') or before.at) or now
local state = {at = at, equity = text, high = text, rising = 0, day = number(math.floor(now / DAY)), day_start = text,
  scale = 1}
save(state)
redis.call('HSET', MEASUREMENTS, 'rebased', EVENT_ID .. ' ' .. details)
if other_currency then redis.call('HSET', MEASUREMENTS, 'currency', other_currency) end
redis.call('HDEL', MEASUREMENTS, 'in_other_currency')
accepted('EQUITY_CURRENCY')
redis.call('DEL', READINGS) -- transfers of before are in what it begins at
redis.call('RPUSH', READINGS, line_of(state))
keep_next(transfers(), at)
redis.call('HDEL', CONFIRMATIONS, 'DRAWDOWN', 'DAILY_LOSS', 'LOSS_VELOCITY')
return {'WITHIN', details}
