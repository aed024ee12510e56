"""Keeps a copy of the ledger in MLflow, which may fail or be deleted.

`view` writes it, `background` does so in a thread; no result is ever read back from it. Only the driver imports this
package, and only `view` imports mlflow.
"""
