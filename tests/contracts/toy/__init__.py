"""A workload, an optimizer and a figure defined only in this folder, as in a user's own modules."""
