"""Tables, verdicts, pages and figures, made of evaluations.csv alone."""
