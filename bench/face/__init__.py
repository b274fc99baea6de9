"""What the package offers for a network of one's own."""
