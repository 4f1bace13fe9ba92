#!lua flags=allow-oom
-- KEYS[6]: when each feed was first looked for, [12…]: the feeds' heartbeats. ARGV[11]: most age in ms, [12]: Unix
-- microseconds since when the market has been open, '' when no calendar says so, 'closed'; [13…]: the feeds' names.
-- Whoever looks first trips; for all others the breaker is tripped already.
local limit, opened = tonumber(ARGV[11]) * 1000, ARGV[12]

-- A time that has not been yet, written by hand, would keep a feed young for ever.
local function past(time) return time and time >= 0 and time <= now + FUTURE_TOLERANCE and time or nil end

expect_type(MEASUREMENTS, 'hash')
local oldest, oldest_age, oldest_seen
for i = 13, #ARGV do
  local feed, key = ARGV[i], KEYS[i - 1]
  expect_type(key, 'string')
  local seen = past(parse_time(redis.call('GET', key) or ''))
  if not seen then
    -- A feed that has never come is as old as our waiting for it.
    seen = past(tonumber(redis.call('HGET', MEASUREMENTS, feed) or ''))
    if not seen then
      redis.call('HSET', MEASUREMENTS, feed, number(now))
      seen = now
    end
  end
  local age = now - math.max(seen, tonumber(opened) or 0)
  if not oldest or age > oldest_age then oldest, oldest_age, oldest_seen = feed, age, seen end
end
if opened == 'closed' then
  return conclude('DATA_STALENESS', false, 0, details_of({'window', 'market closed', 'feed', oldest}))
end
return conclude('DATA_STALENESS', oldest_age > limit, share_of(oldest_age, limit), details_of({
  'measured', string.format('%.1f s', oldest_age / 1000000), 'limit', string.format('%g s', limit / 1000000),
  'window', opened == '' and 'since the newest data' or 'of open market', 'feed', oldest, 'newest', iso(oldest_seen),
}))
