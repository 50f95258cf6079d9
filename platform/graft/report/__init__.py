"""What a model is worth, measured on the user's own images, and shown on one page."""
