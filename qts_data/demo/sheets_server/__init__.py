"""A stand-in for Google Sheets on this machine: the part of the Sheets API v4 that gspread uses, over HTTP.

It is for tests and for the demo. It keeps workbooks in memory, checks credentials, counts quota, and fails on
command. The real client runs against it from end to end.

Source: https://developers.google.com/workspace/sheets/api/reference/rest
"""

from qts_data.demo.sheets_server.faults import Fault, faults_at_random, faults_in_order
from qts_data.demo.sheets_server.sample import fill_book
from qts_data.demo.sheets_server.server import SheetsStandIn
from qts_data.demo.sheets_server.workbook import Formula, Workbook

__all__ = ["Fault", "Formula", "SheetsStandIn", "Workbook", "faults_at_random", "faults_in_order", "fill_book"]
