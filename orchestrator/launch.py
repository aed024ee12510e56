"""The command line, `python -m orchestrator.launch SWEEP`: finds the commands, and ends in one line on Ctrl-C.

Everything is imported in `main`, where Ctrl-C is heeded from the first moment. Each command imports what it needs when
it is called, so that `--help` and `plan` start fast.
"""

import os
import sys


def main() -> None:
    """Run the command line: a user's mistake ends as one line and exit code 2, Ctrl-C as exit code 130."""
    try:
        code = _run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    if code == 130:
        print("interrupted: the same command resumes where this one stopped", file=sys.stderr)  # noqa: T201
        exec("")  # else Python ends by the signal if code made from a string, as of a dataclass, was interrupted
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    if (foreign := _foreign_package(arguments)) is not None:
        print(f"error: {foreign}", file=sys.stderr)  # noqa: T201
        return 2
    os.environ["MPLBACKEND"] = "agg"  # figures are files here, whatever backend a notebook has set for its shell

    from orchestrator.commands.command_line import exit_code

    return exit_code(arguments)


def _foreign_package(arguments: list[str]) -> str | None:
    """What to say if a user's file would be imported in the place of one of this product's packages."""
    from importlib.util import find_spec
    from pathlib import Path

    names_module = any(word.partition("=")[0] == "--module" for word in arguments)
    if names_module and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as importing the module will do
    for name in ("trainables", "search_spaces"):
        spec = find_spec(name)
        places = [] if spec is None else list(spec.submodule_search_locations or [spec.origin or ""])
        ours = Path(__file__).resolve().parent.parent / name
        if places and Path(places[0]).resolve() != ours:
            return f"{places[0]} is imported in place of {ours}: rename it, or start from another folder"
    return None


if __name__ == "__main__":
    main()
