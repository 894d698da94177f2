"""Ticks in and out.

`repository` loads and `reads` asks. A load goes from `sources` (records or columns) by batches (`records`,
`column_batch`) through `loading` into the table, with `bookkeeping` in the same transaction.
"""
