"""One module per verb, where the rooms are wired together."""
