"""Units that classes of networks declare."""
