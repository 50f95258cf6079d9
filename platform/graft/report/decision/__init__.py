"""What a version's answers are to mean: fitted, certified and judged on its held-out images."""
