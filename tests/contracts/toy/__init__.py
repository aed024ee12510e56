"""A workload and an optimizer defined only in this folder, as in a user's own modules."""
