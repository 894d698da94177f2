"""Loading and reading of ticks.

`repository` loads ticks, and `reads` answers queries. A load takes records or columns from `sources`, makes batches
(`records`, `column_batch`), and writes them with `loading`. `bookkeeping` writes in the same transaction.
"""
