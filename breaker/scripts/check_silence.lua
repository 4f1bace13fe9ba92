#!lua flags=allow-oom
-- ARGV[11]: ms without a measurement, [12]: Unix microseconds since when the market has been open, '' when no calendar
-- says so, 'closed'; [13…]: the rules that are on and should hear something all the time.
local limit, opened, silent, longest = tonumber(ARGV[11]) * 1000, ARGV[12], {}, 0
for i = 13, #ARGV do
  local rule = ARGV[i]
  local heard = tonumber(string.match(redis.call('HGET', JUDGED, rule) or '', '^(%d+) ') or '')
  if not heard or heard > now + FUTURE_TOLERANCE then
    -- What never came is as old as our waiting for it.
    heard = tonumber(redis.call('HGET', JUDGED, 'waiting ' .. rule) or '')
    if not heard or heard > now + FUTURE_TOLERANCE then
      redis.call('HSET', JUDGED, 'waiting ' .. rule, number(now))
      heard = now
    end
  end
  local age = now - math.max(heard, tonumber(opened) or 0)
  longest = math.max(longest, age)
  if age > limit then table.insert(silent, rule) end
end
if opened == 'closed' then silent, longest = {}, 0 end
return conclude('SILENT_INPUT', #silent > 0, share_of(longest, limit), details_of({
  'measured', string.format('%.0f s', longest / 1000000), 'limit', string.format('%g s', limit / 1000000), 'window',
  opened == '' and 'since the last measurement' or 'of open market', 'silent', table.concat(silent, ', '),
}))
