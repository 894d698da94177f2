"""The wire format of COPY, and ticks in columns."""
