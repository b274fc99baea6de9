"""Cells told to an experiment tracker: a run for each, with its settings, its results and a figure."""
