"""The experiment on what transfer buys: design, run, estimates, answers, page."""
