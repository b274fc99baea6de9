"""Multiplicative noise on structures, and the layers that carry it."""
