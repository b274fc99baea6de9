"""Networks on disk: bundles, and exports to other formats."""
