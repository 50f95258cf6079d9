"""Backbones: stage maps, weights, heads, freezing and the trunk digest."""
