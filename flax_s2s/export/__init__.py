"""A model outside of its trainer: enters a trained run; leaves one folder that translates without JAX, and the proof that it says the same.

And the way back: enters what another toolkit saved; leaves what a run is made of.
"""
