"""Evaluations of one candidate, each giving scores per question or text, and the statistics over them."""
