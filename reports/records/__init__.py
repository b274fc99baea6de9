"""The records as reports read them, and the statistics over them."""
