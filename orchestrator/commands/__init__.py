"""The commands of `launch`, related ones in one file.

They parse options, call the code that does the work and print what it returns; no sweep, plan or number is made here.
Only `orchestrator.launch` imports this package. Commands import what they need when they are called, so that `--help`
is quick.
"""
