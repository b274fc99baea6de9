"""What a network is worth: metrics, operations, latency, size."""
