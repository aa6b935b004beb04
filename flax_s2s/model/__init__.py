"""Batch -> readouts and logits; NNX modules declare the parameters, what runs is plain JAX; never imports data."""
