"""Keep the venues' own dead-man timers armed: what to do next, what is known of each, and who does it."""
