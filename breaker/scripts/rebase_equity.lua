#!lua flags=allow-oom
-- ARGV[11]: the equity as text at which high-water mark and day begin anew, or '' for the last that was measured, which
-- then stays as old as it is.
local text = ARGV[11]
expect_type(MEASUREMENTS, 'hash')

local function stored(field) return redis.call('HGET', MEASUREMENTS, field) or '' end

local by, told = string.match(stored('rebased'), '^(%S+) (.+)$')
if by == EVENT_ID then return {'WITHIN', told} end -- done when it was sent before, whose answer was lost

local measured = text == ''
if measured then text = stored('equity') end
if text == '' then return {'REFUSED', 'no equity is recorded yet at which it could begin anew'} end
local equity = tonumber(text)
if not equity or equity ~= equity or equity <= 0 or equity == math.huge then
  return refuse('EQUITY', text .. ' is no equity: it has to be a positive number')
end

local details = details_of({
  'equity', text, 'equity_before', stored('equity'), 'high_water_before', stored('high_water'), 'day_start_before',
  stored('day_start'), 'at', iso(now),
})
redis.call('HSET', MEASUREMENTS, 'equity', text, 'high_water', text, 'rising', '0', 'day',
  number(math.floor(now / DAY)), 'day_start', text, 'rebased', EVENT_ID .. ' ' .. details)
if not measured or stored('measured_at') == '' then
  redis.call('HSET', MEASUREMENTS, 'measured_at', number(now))
end
redis.call('HDEL', CONFIRMATIONS, 'DRAWDOWN', 'DAILY_LOSS')
return {'WITHIN', details}
