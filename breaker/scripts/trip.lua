#!lua flags=allow-oom
-- Halts trading. ARGV[8]: the incident id to use if this trip begins an incident.
return trip(ARGV[8])
