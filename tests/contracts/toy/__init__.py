"""A workload and an optimizer that nobody but this folder knows: added as a user's own modules add theirs."""
