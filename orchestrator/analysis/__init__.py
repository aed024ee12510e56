"""Statistics of the ledger's rows: cells, pairs, verdicts, edges, scaling laws.

Tables go in and tables come out; nothing here reads files, prints or draws. Schedulers, figures, report and driver
import this package.
"""
