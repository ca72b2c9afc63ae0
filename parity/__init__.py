"""Torch twins of every network and the comparisons of refnet with them. Never installed."""
