"""Decides what is trained next: all trials of a grid at once, or the rounds of a search.

Schedulers derive everything from the ledger's rows and recorded asks. A plan is a sweep minus the trials that the
ledger settles. Executors decide where trials are trained. Driver, report and commands import this package.
"""
