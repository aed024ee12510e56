"""What runs on a worker: trial configs, workloads and their engines; knows nothing of sweeps and needs no Ray."""
