"""How good a model version is, and which of two is better."""
