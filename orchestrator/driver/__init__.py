"""The process of a launch: connects plan, executor, ledger and views until every trial is trained.

How packs run, how rows are stored and what is trained next are decided in other packages. Only commands import this
one.
"""
