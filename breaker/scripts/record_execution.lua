#!lua flags=allow-oom
-- Counts how often a strategy was applied since a person last enabled it, which a reset of its breaker does.
-- ARGV[11]: most executions.
local limit, enabled = tonumber(ARGV[11]), load_state().fields.reset_at
enabled = type(enabled) == 'string' and enabled or ''
expect_type(MEASUREMENTS, 'hash')
if redis.call('HGET', MEASUREMENTS, 'enabled') ~= enabled then
  redis.call('DEL', MEASUREMENTS)
  redis.call('HSET', MEASUREMENTS, 'enabled', enabled)
end
local count = count_up(MEASUREMENTS, 'executions')
return conclude('REPEATED_EXECUTION', count > limit, share_of(count, limit), details_of({
  'measured', number(count), 'limit', number(limit), 'window', 'since a person enabled it',
}))
