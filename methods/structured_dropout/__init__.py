"""Variational dropout with factors on structures, in feed-forward networks and LSTMs."""
