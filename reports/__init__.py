"""Reports from records: statistics, tables, figures, one self-contained page. Never imports torch."""
