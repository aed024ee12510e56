"""Kills and faults at random moments of real sweeps: nothing is lost, trained twice, changed or left behind.

`python -m tests.chaos --kills 200 --seed 0` prints a table and ends with exit code 1 if a rule was broken. The kills
are a pure function of the seed; the moments at which they meet the processes are not.
"""
