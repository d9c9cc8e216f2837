"""Scores of hypotheses against references: figures with intervals, counts, conditions, slices, and comparisons."""
