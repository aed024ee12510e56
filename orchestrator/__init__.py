"""Plans, runs, records and analyses sweeps; the only package that imports the other two."""
