"""The command line: one file a verb, each with `add_parser(subparsers)` and `run(arguments) -> int`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Collection, Sequence
from typing import Any

from refnet import __version__
from refnet.cli.parser import VERBS as VERBS
from refnet.cli.parser import WRONG_CALL, Parser
from refnet.errors import (
    BackendError,
    CheckpointError,
    FileError,
    OptionError,
    OutputError,
    RefnetError,
    WeightsError,
    printable,
)
from refnet.interrupts import raise_again

INTERNAL, INTERRUPTED, TERMINATED = 70, 130, 143

_EPILOG = """\
`refnet VERB --help` explains a verb; `--debug` after any verb shows where an error comes from.

exit codes: 0 done, 1 some files failed, 2 wrong call, 70 an error of refnet's own, 130 after Ctrl-C,
143 after SIGTERM. What was found until then is complete in the results.
"""
#: What other programs call a verb, or what people try: the verb.
_VERBS_ELSEWHERE = {
    **dict.fromkeys(("face", "find", "track", "analyze", "analyse", "pose"), "faces"),
    **dict.fromkeys(("predict", "objects", "heads", "plates", "balls", "detection"), "detect"),
    **dict.fromkeys(("anonymize", "anonymise", "deface", "mask", "hide", "redact"), "blur"),
    **dict.fromkeys(("landmark", "points", "align", "alignment"), "landmarks"),
    **dict.fromkeys(("models", "list", "ls", "zoo"), "networks"),
    **dict.fromkeys(("summary", "show", "describe", "plan"), "info"),
    **dict.fromkeys(("val", "validate", "eval", "test"), "evaluate"),
    **dict.fromkeys(("benchmark", "speed", "profile", "time"), "bench"),
    **dict.fromkeys(("infer", "inference", "forward"), "run"),
    **dict.fromkeys(("check", "checks", "env", "version", "info-system"), "doctor"),
    **dict.fromkeys(("compile", "cache"), "warmup"),
    **dict.fromkeys(("completions", "autocomplete", "install-completion"), "completion"),
}


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does: in order."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, see the epilog of `refnet --help`."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    debug = "--debug" in words
    terminated, before = _on_sigterm()
    try:
        raise_again()
        code = _run(words)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        _silence_stdout()
        return 0
    except KeyboardInterrupt as error:
        _say("interrupted", error, debug=debug)
        code = INTERRUPTED
    except MemoryError as error:
        _say("out of memory", error, debug=debug)
        return 1
    except RefnetError as error:
        _say(str(error), error, debug=debug)
        return WRONG_CALL if _is_of_the_call(error) else 1
    except OSError as error:
        _silence_stdout()
        where = f"{error.filename}: " if error.filename else "cannot write standard output: "
        _say(f"{where}{error.strerror or error}", error, debug=debug)
        return 1
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        advice = "" if debug else "; please report it, with what --debug and `refnet doctor` print"
        _say(f"internal error, {what}{advice}", error, debug=debug)
        return INTERNAL
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    return TERMINATED if code == INTERRUPTED and terminated else code


def _run(words: list[str]) -> int:
    """Parse the words and run the verb."""
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    if words and words[0] not in VERBS and words[0][:1] != "-":
        _refuse_verb(words[0])
    parser = parser_of(words)
    if not words or words == ["--debug"]:
        parser.print_help()
        return 0
    arguments = parser.parse_args(words)
    code: int = arguments.run(arguments)
    return code


def _refuse_verb(word: str) -> None:
    """Raise the error about a first word that is no verb."""
    if os.path.exists(word) or "://" in word or "*" in word:
        kind = (
            "a folder" if os.path.isdir(word) else "a file" if os.path.isfile(word) else "a source"
        )
        raise OptionError(f"{word} is {kind}: refnet faces {word}?")
    import difflib  # only a mistake needs it

    near = difflib.get_close_matches(word, VERBS, 1, 0.6)
    meant = _VERBS_ELSEWHERE.get(word) or (near[0] if near else None)
    hint = f"did you mean refnet {meant}?" if meant else f"there are {', '.join(VERBS)}"
    raise OptionError(f"there is no verb {word}; {hint}")


def parser_of(words: Collection[str] = VERBS) -> Parser:
    """The parser of a call; of verbs that are not among its `words` it knows no arguments.

    So the overview imports none of the verbs' files, and a verb that of no other one.
    """
    parser = Parser(
        prog="refnet",
        usage="refnet VERB ...",
        description="Find faces, 98 landmarks and head pose in photos and video, on any CPU: no PyTorch, "
        "no GPU.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--version", "-V", action=_Version, nargs=0, help="show version, backend and weights"
    )
    subparsers = parser.add_subparsers(
        title="verbs", metavar="VERB", required=True, prog="refnet", parser_class=Parser
    )
    for verb, purpose in VERBS.items():
        if verb in words:
            importlib.import_module(f"refnet.cli.{verb}").add_parser(subparsers)
        else:
            subparsers.add_parser(verb, help=purpose)
    return parser


class _Version(argparse.Action):
    """Prints the version, then what runs here and with which weights, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from refnet import engine
        from refnet.weights import catalogue

        try:
            host = engine.host()
            backend = f"compiled, {host['lanes']} lanes, {host['machine code']}"
        except BackendError as error:
            backend = f"numpy, since {error}"
        print(f"refnet {__version__}\nbackend: {backend}")
        print(f"weights: {', '.join(path.stem for path in catalogue())}")
        parser.exit()


def _is_of_the_call(error: RefnetError) -> bool:
    """Whether an error is about what was typed: a value, a name, a model's file that is not there.

    Photos that cannot be read do not come here: a run notes them, and goes on.
    """
    if isinstance(error, CheckpointError | OutputError):
        return False
    return isinstance(error, OptionError | WeightsError | FileError)


def _say(message: str, error: BaseException, *, debug: bool) -> None:
    """Print one line about an error, and where it comes from if that was asked for."""
    if debug:
        import traceback

        traceback.print_exception(error)
    with contextlib.suppress(OSError):  # its reader has gone
        print(f"refnet: {printable(message)}", file=sys.stderr, flush=True)


def _open_streams() -> None:
    """Make the three standard streams usable where they are closed, or cannot take every character.

    The next file that is opened would take the number of a closed one, and a library that writes a
    warning to number 2 would write it into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _silence_stdout() -> None:
    """Keep Python from writing what is left to a standard output that takes no more, as it ends."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _on_sigterm() -> tuple[list[int], Any]:
    """Have SIGTERM end the run as Ctrl-C does; the list holds its number when it came.

    The other value is what handled it before; None where that cannot be changed.
    """
    came: list[int] = []

    def handle(number: int, _: object) -> None:
        came.append(number)
        raise _Terminated

    try:
        return came, signal.signal(signal.SIGTERM, handle)
    except ValueError:  # not the main thread, which alone gets signals
        return came, None
