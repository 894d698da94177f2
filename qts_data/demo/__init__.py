"""Sample data, the stand-in for Google Sheets and the demonstrations. Only cli and tests import it."""
