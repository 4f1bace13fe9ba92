#!lua flags=allow-oom
-- KEYS[12]: the errors. ARGV[11]: window in ms, [12]: most errors that it may hold, [13]: what succeeded. Errors that
-- were waiting to be confirmed no longer are; those of the window count as before.
local window, limit, source = tonumber(ARGV[11]), tonumber(ARGV[12]), ARGV[13]
expect_type(MEASUREMENTS, 'hash')
expect_type(KEYS[12], 'zset')
redis.call('HSET', MEASUREMENTS, source, iso(now))
redis.call('HDEL', CONFIRMATIONS, 'API_ERRORS')
local count = redis.call('ZCOUNT', KEYS[12], '(' .. number(now - window * 1000), '+inf')
local details = details_of({
  'measured', number(count), 'limit', number(limit), 'window', string.format('%g s', window / 1000), 'source', source,
})
note('API_ERRORS', count > limit, share_of(count, limit), details)
return {'WITHIN', details}
