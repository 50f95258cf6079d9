"""Sweeps: which trials there are, what they share, how they run, and which one is the best."""
