"""Finds, reads, selects and decodes images into a cache of arrays that all processes of a machine share.

The package does not train; torchvision, which it imports when needed, reads and downloads some of the files.
`image_classifier` imports the package, and `orchestrator` does so to name and check data sets.
"""
