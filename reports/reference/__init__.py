"""Reference results that come with the package: rows in *.jsonl.gz, one file per tier, and what reads them."""
