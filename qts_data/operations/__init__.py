"""Jobs that a person or a timer starts."""
