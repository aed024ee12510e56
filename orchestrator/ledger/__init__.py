"""The results as Parquet files: written once, read, merged, and guarded by a lease.

Statistics and MLflow are elsewhere. Every package above it in `orchestrator` may import it; it imports none of them.
"""
