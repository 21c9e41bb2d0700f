"""What an experiment is, without torch: its grid of runs, merges, candidates, evaluations and comparisons."""
