"""Where packs run: the executor's protocol, this process, a Ray cluster, and the queue of packs.

What is trained and how results are recorded is decided by the driver, which alone imports this package.
"""
