#!lua flags=allow-oom
-- ARGV[11]: equity as text, [12]: Unix microseconds at which it was measured or '', [13]: drawdown limit, a fraction,
-- [14]: mode, [15]: limit of the daily loss.
-- ARGV[9] is the mode of DRAWDOWN. Both rules share the measurement.
local text, at, limit = ARGV[11], ARGV[12] == '' and now or tonumber(ARGV[12]), tonumber(ARGV[13])
local daily_mode, daily_limit = ARGV[14], tonumber(ARGV[15])
local ROUNDING = 1e-12 -- of a double: exactly at the limit is not beyond it
expect_type(MEASUREMENTS, 'hash')

local equity = tonumber(text)
if not equity or equity ~= equity or equity <= 0 or equity == math.huge then
  return refuse('EQUITY', text .. ' is no equity: it has to be a positive number')
end
if at > now + FUTURE_TOLERANCE then return refuse('EQUITY', 'it was measured in the future, at ' .. iso(at)) end

-- Nil for what is no finite number from 0 on: from a mark that somebody has set to "nan" or "inf" no fall is seen.
local function stored(field)
  local value = tonumber(redis.call('HGET', MEASUREMENTS, field) or '')
  return value and value >= 0 and value < math.huge and value or nil
end
local last_at = stored('measured_at')
if last_at and at < last_at and last_at <= now + FUTURE_TOLERANCE then
  return refuse('EQUITY', 'a later measurement, of ' .. iso(last_at) .. ', is known already')
end

local today = number(math.floor(at / DAY))
local high, high_text = stored('high_water'), redis.call('HGET', MEASUREMENTS, 'high_water')
local rising, lowest_rise = stored('rising') or 0, stored('lowest_rise')
if not high then
  high, high_text, rising = equity, text, 0
elseif equity > high then
  -- A single high tick would make the next ordinary one a drawdown, so the mark rises only when it is confirmed, and
  -- to the lowest of the confirming measurements.
  rising = rising + 1
  if rising == 1 or not lowest_rise or equity < lowest_rise then
    lowest_rise = equity
    redis.call('HSET', MEASUREMENTS, 'lowest_rise', text)
  end
  if rising >= WANTED then
    high, high_text, rising = lowest_rise, redis.call('HGET', MEASUREMENTS, 'lowest_rise'), 0
  end
else
  rising = 0
end
local day_start, day_text = stored('day_start'), redis.call('HGET', MEASUREMENTS, 'day_start')
if not day_start or redis.call('HGET', MEASUREMENTS, 'day') ~= today then
  -- The day begins with the last equity of the day before, so that a gap at the open counts.
  local before = stored('equity') and redis.call('HGET', MEASUREMENTS, 'equity') or text
  day_start, day_text = tonumber(before), before
end
redis.call('HSET', MEASUREMENTS, 'equity', text, 'measured_at', number(at), 'high_water', high_text, 'rising',
  number(rising), 'day', today, 'day_start', day_text)

local function fallen(from) return (from - equity) / from end
local function conclude_fall(rule, from, from_text, most, window)
  local fall = fallen(from)
  return conclude(rule, fall > most + ROUNDING, details_of({
    'measured', string.format('%.4f%%', fall * 100), 'limit', string.format('%g%%', most * 100), 'window', window,
    'equity', text, 'reference', from_text,
  }))
end

local drawdown = conclude_fall('DRAWDOWN', high, high_text, limit, 'from the high-water mark')
MODE = daily_mode
local daily = conclude_fall('DAILY_LOSS', day_start, day_text, daily_limit, 'since the start of the UTC day')
local rank = {OFF = 0, WITHIN = 1, UNCONFIRMED = 2, WOULD_TRIP = 3, ALREADY_TRIPPED = 4}
return ((rank[daily[1]] or 5) > (rank[drawdown[1]] or 5)) and daily or drawdown
