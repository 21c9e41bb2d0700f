"""What is made of evaluations.csv, and of nothing else: tables, verdicts, pages, figures."""
