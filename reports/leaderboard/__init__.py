"""The mathematics of leaderboards, of arrays alone: paired tests, groups, stability, planning, profiles."""
