"""Books in spreadsheets and CSV files: a header, rows of cells, and the records made from them."""

from qts_data.importers.tables.cells import Cell, cell_of_decimal, column_letters
from qts_data.importers.tables.layouts import DAILY_BARS, LAYOUTS, LEDGER, POSITIONS, RISK_LIMITS, STRATEGIES, SYSTEM
from qts_data.importers.tables.records import Defaults, RecordMaker, row_of
from qts_data.importers.tables.table import Header, Layout, Row, read_rows

__all__ = [
    "DAILY_BARS",
    "LAYOUTS",
    "LEDGER",
    "POSITIONS",
    "RISK_LIMITS",
    "STRATEGIES",
    "SYSTEM",
    "Cell",
    "Defaults",
    "Header",
    "Layout",
    "RecordMaker",
    "Row",
    "cell_of_decimal",
    "column_letters",
    "read_rows",
    "row_of",
]
