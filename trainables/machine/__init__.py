"""What this process gets of its machine: the CPUs that it may use, and a folder for its caches."""
