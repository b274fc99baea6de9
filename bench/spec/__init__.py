"""What is to be computed: matrices, cells and their settings."""
