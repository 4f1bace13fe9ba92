#!lua flags=allow-oom
-- ARGV[11]: Unix microseconds of the newest data, or '' for now.
local at = ARGV[11] == '' and now or tonumber(ARGV[11])
expect_type(MEASUREMENTS, 'string')
if at > now + FUTURE_TOLERANCE then return refuse('HEARTBEAT', 'the data is from the future, ' .. iso(at)) end
accepted('HEARTBEAT')
local known = parse_time(redis.call('GET', MEASUREMENTS) or '')
if known and known > at and known <= now + FUTURE_TOLERANCE then
  return {'WITHIN', details_of({'at', iso(known)})} -- newer data has been seen already
end
redis.call('SET', MEASUREMENTS, iso(at))
return {'WITHIN', details_of({'at', iso(at)})}
