"""Trains several trials in one worker: pack orders, the worker's loop, the pack in training, saved states.

How a trial trains is up to its workload. Workloads and `orchestrator` import this package.
"""
