"""Several trials trained by one worker: orders, the worker's loop, the pack in training, saved states.

How one trial trains belongs to its workload. Workloads and `orchestrator` import this package.
"""
