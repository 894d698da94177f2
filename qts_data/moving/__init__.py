"""The move from a spreadsheet to the database: plan, copy, shadow, verify, cutover - and rollback."""

from qts_data.moving.move import CutoverGates, Move, MoveStatus
from qts_data.moving.plan import Plan, PlannedTable

__all__ = ["CutoverGates", "Move", "MoveStatus", "Plan", "PlannedTable"]
