"""Google Sheets: calls of the API by gspread, sheets as tables of records, and the book in a spreadsheet.

`client` needs the extra `sheets`; nothing else here imports it.
"""

from qts_data.adapters.sheets.adapter import GoogleSheetsAdapter
from qts_data.adapters.sheets.sheets import Workbook
from qts_data.adapters.sheets.writer import BookWriter, Line

__all__ = ["BookWriter", "GoogleSheetsAdapter", "Line", "Workbook"]
