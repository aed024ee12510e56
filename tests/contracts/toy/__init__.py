"""A workload, an optimizer and a figure that nobody but this folder knows: added as a user's own modules add theirs."""
