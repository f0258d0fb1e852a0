"""The stages of a search on Ray. Each is a thin twin of a pure function elsewhere."""
