"""Lines in, lines out: enters a file, a folder or a stream of lines; leaves one answer for each line, in order, whoever is killed meanwhile."""
