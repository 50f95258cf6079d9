"""The experiment on what transfer buys: design, run, bootstrap, answers, page."""
