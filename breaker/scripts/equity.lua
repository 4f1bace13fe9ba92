-- Shared by what judges equity, after the rules: KEYS[12] the newest readings, [13] the transfers by their ids.
-- ARGV[11] limit of the drawdown, [12…14] mode, confirmations and limit of the daily loss, [15…18] those of the velocity
-- of loss and its window in microseconds. MODE and WANTED are the drawdown's.
--
-- What is judged from follows from the readings and transfers in their order alone. So each reading is kept with what
-- was judged from after it, and a transfer that is told late is put in its place and what came after it done again.
local READINGS, TRANSFERS, READINGS_KEPT = KEYS[12], KEYS[13], 1000
local TRANSFERS_KEPT = 10000
local MARK_MODE, MARK_WANTED = MODE, WANTED
local ROUNDING = 1e-12 -- of a double: exactly at the limit is not beyond it
expect_type(MEASUREMENTS, 'hash')
expect_type(READINGS, 'list')
expect_type(TRANSFERS, 'hash')

-- Nil for what is no finite number from `least` on: from a mark that somebody has set to "nan" or "inf" no fall is seen.
local function amount(text, least)
  local value = tonumber(text or '')
  return value and value >= least and value < math.huge and value or nil
end

-- A value's fifteen digits without an exponent, as people read it.
local function plain(value)
  local size = value == 0 and 0 or math.floor(math.log10(math.abs(value)))
  local text = string.format('%.' .. number(math.max(0, math.min(14 - size, 20))) .. 'f', value)
  return string.find(text, '.', 1, true) and string.gsub(string.gsub(text, '0+$', ''), '%.$', '') or text
end

-- What is judged from, as the hash has it. Amounts stay the text that they came as.
local function loaded()
  local names = {'equity', 'high_water', 'lowest_rise', 'day_start', 'measured_at', 'rising', 'scale', 'day'}
  local found = redis.call('HMGET', MEASUREMENTS, unpack(names))
  local function text(position, least)
    return amount(found[position], least) and string.gsub(found[position], '%s', '') or nil
  end
  return {
    equity = text(1, -math.huge), high = text(2, 0), lowest = text(3, 0), day_start = text(4, -math.huge),
    at = amount(found[5], 0), rising = amount(found[6], 0) or 0, scale = amount(found[7], 0) or 1,
    day = found[8] or nil,
  }
end

local function save(state)
  redis.call('HSET', MEASUREMENTS, 'equity', state.equity, 'measured_at', number(state.at), 'high_water',
    state.high or '', 'rising', number(state.rising), 'lowest_rise', state.lowest or '', 'day', state.day, 'day_start',
    state.day_start, 'scale', string.format('%.15g', state.scale))
end

local function line_of(state)
  return table.concat({number(state.at), state.equity, string.format('%.15g', state.scale), state.high or '-',
    number(state.rising), state.lowest or '-', state.day, state.day_start}, ' ')
end

-- The readings that our scripts wrote, oldest first, each with its place in the list; what else is there hides none.
local function readings()
  local found = {}
  for i, line in ipairs(redis.call('LRANGE', READINGS, 0, -1)) do
    local at, equity, scale = string.match(line, '^(%d+) (%S+) (%S+) %S+ %d+ %S+ %S+ %S+$')
    if at and tonumber(equity) and amount(scale, 0) then
      table.insert(found, {at = tonumber(at), line = line, place = i - 1})
    end
  end
  return found
end

local function state_of(line)
  local words = {}
  for word in string.gmatch(line, '%S+') do table.insert(words, word ~= '-' and word or false) end
  return {
    at = tonumber(words[1]), equity = words[2], scale = tonumber(words[3]), high = words[4] or nil,
    rising = tonumber(words[5]), lowest = words[6] or nil, day = words[7], day_start = words[8],
  }
end

-- By how much an account grew through `moved`, between the reading before and this one; nil where neither says so. When
-- in between it was moved isn't known, so what was gained or lost meanwhile may be of the amount before or after it: of
-- the two the one counts that leaves the greater fall.
local function growth(before, equity, moved)
  local growths = {}
  if before and before > 0 then table.insert(growths, (before + moved) / before) end
  if equity - moved > 0 then table.insert(growths, equity / (equity - moved)) end
  if #growths == 0 then return nil end
  return math.max(0, unpack(growths))
end

-- What is judged from after a reading, which `moved` of transfers came with.
local function step(before, at, text, day, moved)
  local equity, after = tonumber(text), {at = at, equity = text, day = day}
  for _, name in ipairs({'high', 'lowest', 'rising', 'scale', 'day_start'}) do after[name] = before[name] end
  -- The day begins with the last equity of the day before, so that a gap at the open counts.
  if not before.day_start or before.day ~= day then after.day_start = before.equity or text end
  if moved ~= 0 then
    local by = growth(tonumber(before.equity or ''), equity, moved)
    for _, name in ipairs({'high', 'lowest', 'day_start'}) do
      local mark = tonumber(after[name] or '')
      -- Of an account that had nothing left no share can be told: there the amount itself is added.
      if mark then after[name] = plain(by and mark * by or math.max(0, mark + moved)) end
    end
    after.scale = math.max(after.scale * math.max(by or 1, 1e-30), 1e-200)
  end
  local high = amount(after.high, 0)
  if not high or (high == 0 and equity > 0) then
    after.high, after.rising = equity > 0 and text or nil, 0
  elseif equity > high then
    -- A single high tick would make the next ordinary one a drawdown, so the mark rises only when it is confirmed, and
    -- to the lowest of the confirming measurements.
    after.rising = after.rising + 1
    local lowest = amount(after.lowest, 0)
    if after.rising == 1 or not lowest or equity < lowest then after.lowest = text end
    if after.rising >= MARK_WANTED then after.high, after.rising = after.lowest, 0 end
  else
    after.rising = 0
  end
  return after
end

local function transfers()
  local found, flat = {}, redis.call('HGETALL', TRANSFERS)
  for i = 1, #flat, 2 do
    local at, moved = string.match(flat[i + 1], '^(%d+) (%S+)$')
    if at and tonumber(moved) then table.insert(found, {id = flat[i], at = tonumber(at), moved = tonumber(moved)}) end
  end
  table.sort(found, function(one, other) return one.at < other.at or (one.at == other.at and one.id < other.id) end)
  return found
end

-- What was moved after `from` and not after `to`: a reading has what was moved by its time.
local function moved_between(all, from, to)
  local sum = 0
  for _, each in ipairs(all) do
    if each.at > from and each.at <= to then sum = sum + each.moved end
  end
  return sum
end

-- When the first transfer is that no reading has yet.
local function keep_next(all, last)
  for _, each in ipairs(all) do
    if each.at > last then return redis.call('HSET', MEASUREMENTS, 'next_transfer', number(each.at)) end
  end
  return redis.call('HDEL', MEASUREMENTS, 'next_transfer')
end

-- Zero or less is the whole of it and more, and so are debts of an account that never had anything; one that was emptied,
-- or has nothing yet, has lost nothing.
local function fallen(from, equity)
  if from and from > 0 then return (from - equity) / from end
  return equity < 0 and 1 or 0
end

local function conclude_fall(rule, fall, most, window, state, reference)
  local not_funded = not reference and tonumber(state.equity) == 0
  return conclude(rule, fall > most + ROUNDING, share_of(fall, most), details_of({
    'measured', not_funded and 'not funded' or string.format('%.4f%%', fall * 100), 'limit', string.format('%g%%', most * 100), 'window', window,
    'equity', state.equity, 'reference', reference or 'none',
  }))
end

-- The highest of the window in today's money: each reading without what transfers did to it.
local function highest_within(state, window)
  local highest, last = tonumber(state.equity) / state.scale, -1
  while true do
    local lines = redis.call('LRANGE', READINGS, last - 63, last)
    for i = #lines, 1, -1 do
      local at, text, scale = string.match(lines[i], '^(%d+) (%S+) (%S+)')
      if at and tonumber(at) < state.at - window then return highest * state.scale end
      if at and tonumber(text) and tonumber(scale) then
        highest = math.max(highest, tonumber(text) / tonumber(scale))
      end
    end
    if #lines < 64 then return highest * state.scale end
    last = last - 64
  end
end

-- By the three rules, of which the graver verdict is the answer.
local function judge(state)
  local equity = tonumber(state.equity)
  judge_by(MARK_MODE, MARK_WANTED)
  local worst = conclude_fall('DRAWDOWN', fallen(tonumber(state.high or ''), equity), tonumber(ARGV[11]),
    'from the high-water mark', state, state.high)
  judge_by(ARGV[12], ARGV[13])
  worst = graver(worst, conclude_fall('DAILY_LOSS', fallen(tonumber(state.day_start), equity), tonumber(ARGV[14]),
    'since the start of the day', state, state.day_start))
  if ARGV[15] ~= 'off' then
    judge_by(ARGV[15], ARGV[16])
    local window = tonumber(ARGV[18])
    local highest = tonumber(state.high or '') == 0 and 0 or highest_within(state, window)
    worst = graver(worst, conclude_fall('LOSS_VELOCITY', fallen(highest, equity), tonumber(ARGV[17]),
      string.format('within %g s', window / 1000000), state, plain(highest)))
  end
  return worst
end
