"""Readouts -> loss -> update: enter batches and a state; leaves the next state; never imports decoding."""
