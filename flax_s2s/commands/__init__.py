"""One module a verb: enter its options; leaves an exit code. Here the rooms are wired together."""
