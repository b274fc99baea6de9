"""Open questions: a matrix, an analysis and a rule, all written before the run; and the page that answers."""
