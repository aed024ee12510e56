"""What a launch prints before its start and at its end: the plan, result tables and notes.

Statistics are in `analysis`, drawings in `figures`. The driver and the commands import this package.
"""
