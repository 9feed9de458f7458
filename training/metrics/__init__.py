"""Scores of plain arrays and of report text, and their intervals."""
