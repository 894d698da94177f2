"""The files in which a live writer keeps acknowledged ticks until they are committed."""
