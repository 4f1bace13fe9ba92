#!lua
-- What one gate reports of itself, for the exporter and the console; no decision is ever made on it.
-- KEYS: when each gate last reported, its report, the checks of all gates. ARGV: the gate's id, its report as JSON,
-- how many milliseconds it is remembered, and 'closed' if this is its last word.
-- Counts are a gate's own since its start, so a report that arrives twice counts once.
local SEEN, REPORTS, CHECKS = KEYS[1], KEYS[2], KEYS[3]
local ID, REPORT, KEPT, CLOSED = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == 'closed'

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

-- What somebody else has written into these keys says nothing, and stands in no report's way.
local decodes, before = pcall(cjson.decode, redis.call('HGET', REPORTS, ID) or '')
local counted = decodes and type(before) == 'table' and type(before.checks) == 'table' and before.checks or {}
for decision, count in pairs(cjson.decode(REPORT).checks) do
  local more = count - (tonumber(counted[decision]) or 0)
  local text = string.format('%.0f', more)
  if more > 0 and type(redis.pcall('HINCRBY', CHECKS, decision, text)) ~= 'number' then
    redis.call('HSET', CHECKS, decision, text)
  end
end

if CLOSED then
  redis.call('ZREM', SEEN, ID)
  redis.call('HDEL', REPORTS, ID)
else
  redis.call('ZADD', SEEN, string.format('%.0f', now), ID)
  redis.call('HSET', REPORTS, ID, REPORT)
end

for _, forgotten in ipairs(redis.call('ZRANGEBYSCORE', SEEN, '-inf', string.format('%.0f', now - KEPT))) do
  redis.call('ZREM', SEEN, forgotten)
  redis.call('HDEL', REPORTS, forgotten)
end
redis.call('PEXPIRE', SEEN, KEPT)
redis.call('PEXPIRE', REPORTS, KEPT)
return redis.status_reply('OK')
