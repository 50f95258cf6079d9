"""Training: the loop in plain torch, checkpoints, and the workers that Ray Train runs."""
