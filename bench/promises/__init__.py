"""Promises of the contract beyond scoring, each with the failure that it reports."""
