"""The tests. As a package, they win over another package of this name on the path."""
