"""What is trained next: all trials of a grid at once, or the rounds of a search.

Everything is derived from the ledger's rows, and a plan is a sweep minus what they settle. Where trials run is not
decided here. Driver, report and commands import this package.
"""
