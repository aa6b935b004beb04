"""Text -> tokens -> batches: enter corpora; leave batches of token ids of a closed set of shapes; NumPy only, never imports jax."""
