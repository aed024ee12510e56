"""Keeps a copy of the ledger in MLflow, which may fail or be deleted.

`view` writes it, by `sqlite` where that is possible, else by `client`; `background` does so in a thread. No result is
ever read back from it. Only the driver imports this package.
"""
