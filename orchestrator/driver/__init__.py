"""The process of a launch: plan, executor, ledger and views, connected until all is trained.

How packs run, how rows are stored and what is trained next are decided in other packages. Only commands import this
one.
"""
