"""Fit an answer to the region: align the answer, match its colours, undo unwanted changes."""
