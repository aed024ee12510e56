"""The commands of `launch`, one file for related ones.

They parse options, call what does the work and print what it returns; no sweep, plan or number is made here. Only
`orchestrator.launch` imports this package. Commands import what they need when they are called, so that `--help` is
quick.
"""
