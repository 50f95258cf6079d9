"""What a model's answer means: calibration, thresholds and costs, `unknown`, and sets; pure."""
