"""The `dna-ray` command line: one thin command a file."""
