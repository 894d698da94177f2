"""Data sources behind one interface: database, Google Sheets, memory, and the hybrid of two."""

from qts_data.adapters.hybrid import HybridAdapter
from qts_data.adapters.memory import InMemoryAdapter
from qts_data.adapters.port import DataSourceAdapter, Fetched
from qts_data.adapters.sheets import GoogleSheetsAdapter
from qts_data.adapters.timescale import TimescaleDBAdapter

__all__ = [
    "DataSourceAdapter",
    "Fetched",
    "GoogleSheetsAdapter",
    "HybridAdapter",
    "InMemoryAdapter",
    "TimescaleDBAdapter",
]
