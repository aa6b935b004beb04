"""Readouts -> loss -> update; never imports decoding."""
