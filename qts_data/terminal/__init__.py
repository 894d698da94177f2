"""Results as text and tables in a terminal."""
