"""The ledger: what was published, beside what comes out here, by rules that were written before the runs."""
