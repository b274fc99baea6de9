"""One file for each topic of a report: its panels, its figure, its caption and its table."""
