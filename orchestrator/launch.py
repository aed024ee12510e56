"""The command line, `python -m orchestrator.launch SWEEP`: finds the commands, and answers Ctrl-C in one line.

Everything is imported in `main`, where signals are heeded from the first moment. Each command imports what it needs
when it is called, so that `--help` and `plan` start fast.
"""

import os
import sys

_OTHER_PACKAGES = ("trainables", "search_spaces")
_INTERRUPTED = 130


def main() -> None:
    """Run the command line: a user's mistake ends as one line and exit code 2, a signal as 128 and its number."""
    from orchestrator.process import parent

    parent.watch(sys.argv[1:])
    try:
        code, stopped = _stoppable(sys.argv[1:])
    except KeyboardInterrupt:  # before signals are heeded
        code, stopped = _INTERRUPTED, "interrupted"
    if stopped:
        _say(f"{stopped}: the same command resumes where this one stopped")
        exec("")  # else Python ends by the signal if code made from a string, as of a dataclass, was interrupted
    sys.exit(code)


def _stoppable(arguments: list[str]) -> tuple[int, str]:
    """The exit code, and in a few words what stopped the command, if anything did."""
    from orchestrator.process import stopping

    stopping.own_process()
    try:
        code = _run(arguments)
        stopping.defer()  # nothing is left to be stopped
    except KeyboardInterrupt:
        code = _INTERRUPTED
    if code != _INTERRUPTED:
        return code, ""
    number = stopping.requested()
    return (code, "interrupted") if number is None else (stopping.exit_code(number), stopping.described(number))


def _run(arguments: list[str]) -> int:
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        _say("error: the current folder has been deleted: start from another one")
        return 2
    if (foreign := _foreign_package(arguments)) is not None:
        _say(f"error: {foreign}: rename it, or start from another folder")
        return 2
    os.environ["MPLBACKEND"] = "agg"  # figures are files here, whatever backend a notebook has set for its shell

    try:
        from orchestrator.commands.command_line import exit_code

        return exit_code(arguments)
    except (Exception, SystemExit) as error:  # a user's figure that ends the process hides what it cost
        fault = _foreign_module() if isinstance(error, (ImportError, AttributeError)) else None
        if fault is None:
            from orchestrator.commands.users_code import users_fault

            fault = users_fault(error)
        if fault is None:
            raise
        _say(f"error: {fault}")
        return 2


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


def _foreign_package(arguments: list[str]) -> str | None:
    """What to say if a user's file would be imported in the place of one of this product's packages."""
    from importlib.util import find_spec
    from pathlib import Path

    names_module = any(word.partition("=")[0] == "--module" for word in arguments)
    if names_module and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as importing the module will do
    for name in _OTHER_PACKAGES:
        spec = find_spec(name)
        places = [] if spec is None else list(spec.submodule_search_locations or [spec.origin or ""])
        ours = Path(__file__).resolve().parent.parent / name
        if places and Path(places[0]).resolve() != ours:
            return f"{places[0]} is imported in place of {ours}"
    return None


def _foreign_module() -> str | None:
    """What to say if a module of the current folder was imported although an installed one has its name."""
    from importlib.machinery import PathFinder
    from pathlib import Path

    here = Path.cwd()
    elsewhere = [place for place in sys.path if Path(place).resolve() != here]
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "/")
        is_ours = name in ("orchestrator", *_OTHER_PACKAGES)
        if file.parent in (here, here / name) and not is_ours and PathFinder.find_spec(name, elsewhere) is not None:
            return f"{file} is imported in place of a library: rename it, or start from another folder"
    return None


if __name__ == "__main__":
    main()
