"""Engines, errors, migrations, roles and the embedded server."""
