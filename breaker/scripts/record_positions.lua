#!lua flags=allow-oom
-- KEYS[6]: the positions that the engine believes in, as JSON. The reading is the venue's. ARGV[11]: limit of one
-- position's notional, [12…14] mode, confirmations and limit of all of them together, [15…17] those of the mismatch;
-- [18…]: of each position its symbol, signed quantity and notional.
local largest, largest_symbol, gross, held = 0, '', 0, {}
for i = 18, #ARGV, 3 do
  local symbol, quantity, notional = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  if not quantity or not notional or quantity ~= quantity or notional ~= notional or math.abs(quantity) == math.huge
    or math.abs(notional) == math.huge then
    return refuse('POSITIONS', 'the position in ' .. symbol .. ' is no number')
  end
  held[symbol] = (held[symbol] or 0) + quantity
  gross = gross + math.abs(notional)
  if math.abs(notional) > largest then largest, largest_symbol = math.abs(notional), symbol end
end
accepted('POSITIONS')

local function plain(value) return string.format('%.2f', value) end

local limit = tonumber(ARGV[11])
local worst = conclude('POSITION_SIZE', largest > limit, share_of(largest, limit), details_of({
  'measured', plain(largest), 'limit', ARGV[11], 'window', 'the largest position', 'symbol', largest_symbol,
}))

judge_by(ARGV[12], ARGV[13])
limit = tonumber(ARGV[14])
worst = graver(worst, conclude('GROSS_EXPOSURE', gross > limit, share_of(gross, limit), details_of({
  'measured', plain(gross), 'limit', ARGV[14], 'window', 'all positions, long and short',
})))

-- How far the two are apart, as a share of the larger one; of what only one of them has, all of it.
local function apart(one, other)
  local larger = math.max(math.abs(one), math.abs(other))
  return larger == 0 and 0 or math.abs(one - other) / larger
end

judge_by(ARGV[15], ARGV[16])
if MODE == 'off' then return worst end
expect_type(MEASUREMENTS, 'string')
local decodes, believed = pcall(cjson.decode, redis.call('GET', MEASUREMENTS) or '')
if not decodes or type(believed) ~= 'table' or type(believed.positions) ~= 'table' then return worst end
-- What is no number is none that the engine holds.
local engine_has = {}
for symbol, quantity in pairs(believed.positions) do
  local value = tonumber(quantity)
  if type(symbol) == 'string' then engine_has[symbol] = value and math.abs(value) < math.huge and value or 0 end
end
limit = tonumber(ARGV[17])
local most, where = 0, ''
local function compare(symbol, venue, engine)
  local share = apart(venue, engine)
  if share > most or (share == most and symbol < where) then
    most, where = share, symbol
  end
end
for symbol, quantity in pairs(held) do compare(symbol, quantity, engine_has[symbol] or 0) end
for symbol, quantity in pairs(engine_has) do
  if held[symbol] == nil then compare(symbol, 0, quantity) end
end
worst = graver(worst, conclude('POSITION_MISMATCH', most > limit, share_of(most, limit), details_of({
  'measured', string.format('%.4f%%', most * 100), 'limit', string.format('%g%%', limit * 100), 'window',
  'engine against venue', 'symbol', where, 'venue', string.format('%.15g', held[where] or 0), 'engine',
  string.format('%.15g', engine_has[where] or 0),
})))
return worst
