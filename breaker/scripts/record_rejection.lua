#!lua flags=allow-oom
-- ARGV[11]: most rejections in a row, [12]: why the venue rejected; '' when it accepted an order, which ends the row.
local limit, why = tonumber(ARGV[11]), ARGV[12]
expect_type(MEASUREMENTS, 'hash')
if why == '' then
  redis.call('DEL', MEASUREMENTS)
  return conclude('CONSECUTIVE_REJECTIONS', false, 0, details_of({'measured', '0', 'limit', number(limit)}))
end
local count = count_up(MEASUREMENTS, 'in_a_row')
return conclude('CONSECUTIVE_REJECTIONS', count > limit, share_of(count, limit), details_of({
  'measured', number(count), 'limit', number(limit), 'window', 'in a row', 'last', why,
}))
