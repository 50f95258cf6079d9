"""The candidates among backbones, ranked by their frozen features."""
