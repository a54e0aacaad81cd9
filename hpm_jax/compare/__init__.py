"""Arms times seeds on common random numbers, statistics, one page."""
