#!lua flags=allow-oom
-- ARGV[11]: window in ms, [12]: most errors that the window may hold, [13]: where the error came from.
local window, limit, source = tonumber(ARGV[11]), tonumber(ARGV[12]), ARGV[13]
local KEPT = 10000 -- a storm of errors says no more than its first ten thousand
expect_type(MEASUREMENTS, 'zset')
redis.call('ZADD', MEASUREMENTS, number(now), EVENT_ID .. ' ' .. source)
redis.call('ZREMRANGEBYSCORE', MEASUREMENTS, '-inf', number(now - window * 1000))
redis.call('ZREMRANGEBYRANK', MEASUREMENTS, 0, -math.max(KEPT, limit + 1) - 1)
redis.call('PEXPIRE', MEASUREMENTS, window)
local count = redis.call('ZCARD', MEASUREMENTS)
return conclude('API_ERRORS', count > limit, share_of(count, limit), details_of({
  'measured', number(count), 'limit', number(limit), 'window', string.format('%g s', window / 1000), 'source', source,
}))
