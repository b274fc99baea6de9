"""The harness: matrix, cells, training loop, selection, evaluation, store, command line."""
