"""Engines, errors, migrations and roles."""
