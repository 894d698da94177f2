"""Live paths that own their transactions: fills and ticks in groups, and the spool."""
