#!lua flags=allow-oom
-- ARGV[19]: the amount as text, negative for what left the account, [20]: Unix microseconds at which it was moved or '',
-- [21]: its id.
local text, at, id = ARGV[19], ARGV[20] == '' and now or tonumber(ARGV[20]), ARGV[21]

local moved = tonumber(text)
if not moved or moved ~= moved or math.abs(moved) == math.huge or moved == 0 then
  return refuse('TRANSFER', text .. ' is no amount that can be moved')
end
if at > now + FUTURE_TOLERANCE then return refuse('TRANSFER', 'it was moved in the future, at ' .. iso(at)) end

local function told(effect)
  local details = details_of({'effect', effect, 'amount', text, 'at', iso(at), 'transfer', id})
  return {'WITHIN', details}
end
if redis.call('HEXISTS', TRANSFERS, id) == 1 then return told('counted already') end

local known = readings()
local place = 0 -- of the last reading that has it not
while known[place + 1] and known[place + 1].at < at do place = place + 1 end
if place == 0 and #known >= READINGS_KEPT then
  return refuse('TRANSFER', 'it was moved before the oldest reading that is kept, of '
    .. iso(known[1].at) .. ': where the high-water mark is wrong for that, re-base')
end

accepted('TRANSFER')
redis.call('HSET', TRANSFERS, id, string.format('%d %s', at, text))
local all = transfers()
for i = 1, #all - TRANSFERS_KEPT do redis.call('HDEL', TRANSFERS, all[i].id) end
if place == #known then
  keep_next(all, #known == 0 and 0 or known[#known].at)
  return told('waits for the first reading that has it')
end
if place == 0 then return told('none: all that is judged from has it') end

local before = state_of(known[place].line)
for i = place + 1, #known do
  local reading = state_of(known[i].line)
  before = step(before, reading.at, reading.equity, reading.day, moved_between(all, before.at, reading.at))
  redis.call('LSET', READINGS, known[i].place, line_of(before))
end
save(before)
-- Where a limit has to be passed several times in a row, the next reading says so: this one has counted.
if MARK_WANTED > 1 then return told('counted') end
local verdict = judge(before)
if verdict[1] == 'WITHIN' or verdict[1] == 'OFF' then return told('counted') end
return verdict
