"""Stages of orders."""
