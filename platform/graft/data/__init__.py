"""Datasets: import, versions, splits, views, the image loader."""
