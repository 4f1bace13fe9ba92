#!lua flags=allow-oom
-- Counts events within a window. ARGV[11]: window in ms, [12]: most events that it may hold, [13]: the event's source,
-- [14]: the rule.
local window, limit, source, rule = tonumber(ARGV[11]), tonumber(ARGV[12]), ARGV[13], ARGV[14]
local KEPT = 10000 -- a storm says no more than its first ten thousand
expect_type(MEASUREMENTS, 'zset')
redis.call('ZADD', MEASUREMENTS, number(now), EVENT_ID .. ' ' .. source)
redis.call('ZREMRANGEBYSCORE', MEASUREMENTS, '-inf', number(now - window * 1000))
redis.call('ZREMRANGEBYRANK', MEASUREMENTS, 0, -math.max(KEPT, limit + 1) - 1)
redis.call('PEXPIRE', MEASUREMENTS, window)
local count = redis.call('ZCARD', MEASUREMENTS)
return conclude(rule, count > limit, share_of(count, limit), details_of({
  'measured', number(count), 'limit', number(limit), 'window', string.format('%g s', window / 1000), 'source', source,
}))
