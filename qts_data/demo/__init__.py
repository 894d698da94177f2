"""Sample data, the stand-in for Google Sheets and the demonstrations; only cli and tests import it."""
