#!lua flags=allow-oom
-- A value against a limit. ARGV[11]: the rule, [12]: the value as text, [13]: its limit, [14]: what it is of.
local rule, text, limit = ARGV[11], ARGV[12], tonumber(ARGV[13])
local value = tonumber(text)
if not value or value ~= value or math.abs(value) == math.huge then return refuse(rule, text .. ' is no number') end
accepted(rule)
return conclude(rule, value > limit, share_of(value, limit), details_of({
  'measured', text, 'limit', ARGV[13], 'window', ARGV[14],
}))
