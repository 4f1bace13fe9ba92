#!lua flags=allow-oom
-- ARGV[11]: what succeeded. Errors that were waiting to be confirmed no longer are.
expect_type(MEASUREMENTS, 'hash')
redis.call('HSET', MEASUREMENTS, ARGV[11], iso(now))
redis.call('HDEL', CONFIRMATIONS, 'API_ERRORS')
return {'WITHIN', details_of({'source', ARGV[11]})}
