"""What this process gets of its machine: CPUs, torch's threads, a GPU's memory, and a folder for its caches."""
