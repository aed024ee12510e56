"""Names that no sweep may have. The module imports nothing, so that adding a command does not slow `--help` down."""

RESERVED = {"all"}
"""`all` means every sweep in `launch status all`; `orchestrator.commands.app.command` adds the commands' names."""
