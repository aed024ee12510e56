"""Stores results as Parquet files: writes, reads and merges them, and leases a sweep to one driver at a time.

Statistics and MLflow are in other packages. Every package above it in `orchestrator` may import it; it imports none of
them.
"""
