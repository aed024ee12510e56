"""The names that no sweep may have; it imports nothing, so that commands can enter theirs and `--help` stays quick."""

RESERVED = {"all"}
"""`launch status all` is of all sweeps; `@command` of `orchestrator.commands.app` adds each command's name."""
