"""Batch -> readouts and logits: enters a batch; leave logits. NNX modules declare the parameters, what runs is plain JAX; never imports data."""
