"""Stores results as Parquet files: writes, reads and merges them, and keeps drivers from the same sweep and trials.

Statistics and MLflow are in other packages. Every package above it in `orchestrator` may import it; it imports none of
them.
"""
