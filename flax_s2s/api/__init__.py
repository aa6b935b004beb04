"""What Python sees: enter run directories, a `Config`, text; leave numbers and text as data, by the same code as the verbs."""
