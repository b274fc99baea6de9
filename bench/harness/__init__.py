"""From a matrix to records: plan, workers, cells."""
