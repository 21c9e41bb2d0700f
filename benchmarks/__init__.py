"""Measurements of speed, memory and disk against the usual ways to do the same work; run.py runs them."""
