"""Measures of answers to questions, which are taken only where they are named."""
