"""Reference results that come with the package: rows in *.jsonl.xz, one file per tier, and what reads them."""
