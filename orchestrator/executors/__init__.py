"""Runs packs: the executor protocol, executors for this process and for Ray clusters, and the queue of packs.

The driver decides what is trained and how results are recorded, and is the only package that imports this one.
"""
