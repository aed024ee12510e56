"""Computes statistics of the ledger's rows: cells, pairs, verdicts, edges, scaling laws.

Functions take tables and return tables or values; nothing here reads files, prints or draws. Schedulers, figures,
report and driver import this package.
"""
