"""Output of results in a terminal, as text and tables."""
