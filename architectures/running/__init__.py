"""Networks while they run: modes, loans, statistics, costs."""
