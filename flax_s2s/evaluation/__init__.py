"""Hypotheses -> numbers: enter translations and what was right; leave metrics with their intervals, comparisons, and how sure the model is."""
