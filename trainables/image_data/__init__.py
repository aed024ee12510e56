"""Images from files to arrays in a cache that all processes share: finding, reading, decoding, selecting.

There is no torch and no training here. `image_classifier` imports this package, and `orchestrator` does to name and
check data sets.
"""
