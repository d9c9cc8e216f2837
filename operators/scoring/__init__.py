"""Scores of hypotheses against references: figures with intervals, counts, conditions, slices, and comparisons."""

VERSION = "2"
"""Raised when the same transcripts are given other figures: evaluations made before are scored again."""
