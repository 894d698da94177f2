"""The outbox and the records of a move."""
