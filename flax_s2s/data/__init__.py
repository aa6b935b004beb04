"""Text -> tokens -> batches; NumPy only, never imports jax."""
