"""`refnet completion`: what a shell needs to complete verbs, options and the names of networks."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from refnet.benchmark.peers import PEERS
from refnet.cli.parser import add_verb
from refnet.networks import networks
from refnet.networks.defaults import LANDMARKERS, defaults_of

_EPILOG = """\
examples:
  source <(refnet completion bash)                                  in ~/.bashrc
  source <(refnet completion zsh)                                   in ~/.zshrc, after compinit
  refnet completion fish > ~/.config/fish/completions/refnet.fish   once
"""


def add_parser(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "completion",
        "SHELL",
        description="Print a script that has a shell complete verbs, options, their values and the names of "
        "networks.",
        epilog=_EPILOG,
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from refnet.cli import parser_of

    print(SHELLS[arguments.shell](described(parser_of())), end="")
    return 0


@dataclass(frozen=True)
class Option:
    """An option of a verb.

    Attributes:
        names: its spellings, such as "-o" and "--output".
        purpose: its help, in one line.
        takes: what its value is, in a word; empty where it takes none.
        values: those that can be listed.
    """

    names: tuple[str, ...]
    purpose: str
    takes: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Verb:
    """A verb, its options, and the words that can stand for its first argument, where they can be listed."""

    name: str
    purpose: str
    options: tuple[Option, ...]
    words: tuple[str, ...]


def described(parser: Any) -> list[Verb]:
    """The verbs of refnet's parser; a verb with kinds, such as `evaluate`, has the options of all of them."""
    (subparsers,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    purposes = {action.dest: action.help or "" for action in subparsers._choices_actions}
    verbs = []
    for name, verb in subparsers.choices.items():
        options: dict[tuple[str, ...], Option] = {}
        words: list[str] = []
        for own, action in _actions(verb):
            if not action.option_strings:
                words += [] if words else _values(action)
            elif action.help != argparse.SUPPRESS:
                purpose = own._get_formatter()._expand_help(action) if action.help else ""
                takes = "" if action.nargs == 0 else str(action.metavar or action.dest).strip()
                names = tuple(action.option_strings)
                options[names] = Option(names, purpose, takes, _values(action) if takes else ())
        verbs.append(Verb(name, purposes[name], tuple(options.values()), tuple(words)))
    return verbs


def _actions(parser: Any) -> Iterator[tuple[Any, argparse.Action]]:
    """The arguments of a parser and of those below it, each with its parser."""
    for action in parser._actions:
        yield parser, action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)


def _values(action: argparse.Action) -> tuple[str, ...]:
    """The words that an argument takes, where they can be listed."""
    if action.choices is not None:
        return tuple(map(str, action.choices))
    if action.dest == "detector":
        return tuple(name for name in networks() if defaults_of(name).detection is not None)
    if action.dest == "landmarker":
        return (*LANDMARKERS, "none")
    if action.dest in ("network", "networks"):
        return tuple(networks())
    return tuple(PEERS) if action.dest == "peers" else ()


def bash(verbs: Sequence[Verb]) -> str:
    """The script for bash; where nothing is listed, it completes names of files."""
    others, listed = [], []
    unlisted: list[str] = []
    for verb in verbs:
        names = [name for option in verb.options for name in option.names]
        others.append(f'{verb.name}) options="{" ".join(names)}" words="{" ".join(verb.words)}" ;;')
        for option in verb.options:
            places = [f'"{verb.name} {name}"' for name in option.names if option.takes]
            if option.values:
                listed.append(f'{"|".join(places)}) words="{" ".join(option.values)}" ;;')
            else:
                unlisted += places
    return f"""\
# bash completion of refnet; made by `refnet completion bash`
_refnet() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" options="" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        options="--help --version" words="{" ".join(verb.name for verb in verbs)}"
    else
        case "${{COMP_WORDS[1]}} $before" in
            {"|".join(unlisted)}) ;;
            {_lines(listed, 12)}
            *) case "${{COMP_WORDS[1]}}" in
                {_lines(others, 16)}
            esac ;;
        esac
    fi
    [[ $word == -* ]] && words=$options
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o bashdefault -o default -F _refnet refnet
"""


def zsh(verbs: Sequence[Verb]) -> str:
    """The script for zsh."""
    cases = []
    for verb in verbs:
        specs = []
        for option in verb.options:
            purpose = option.purpose.replace("[", "\\[").replace("]", "\\]")
            takes = option.takes.replace(":", " ")
            value = f"({' '.join(option.values)})" if option.values else "_files"
            specs += [
                f"{name}[{purpose}]" + (f":{takes}:{value}" if takes else "")
                for name in option.names
            ]
        files = f"*: : _alternative 'word:word:({' '.join(verb.words)})' 'file:file:_files'"
        specs.append(files if verb.words else "*: :_files")
        cases.append(f"{verb.name}) _arguments {' '.join(map(_quoted, specs))} ;;")
    listed = [_quoted(f"{verb.name}:{verb.purpose}") for verb in verbs]
    return f"""\
#compdef refnet
# zsh completion of refnet; made by `refnet completion zsh`
_refnet() {{
    local -a verbs=(
        {_lines(listed, 8)}
    )
    if (( CURRENT == 2 )); then
        _describe verb verbs
        return
    fi
    shift words
    (( CURRENT-- ))
    case $words[1] in
        {_lines(cases, 8)}
    esac
}}
if [[ $funcstack[1] == _refnet ]]; then _refnet "$@"; else compdef _refnet refnet; fi
"""


def fish(verbs: Sequence[Verb]) -> str:
    """The script for fish."""
    lines = ["# fish completion of refnet; made by `refnet completion fish`"]
    for verb in verbs:
        first = f"complete -c refnet -f -n __fish_use_subcommand -a {verb.name}"
        lines.append(f"{first} -d {_quoted(verb.purpose, fish=True)}")
        here = f"complete -c refnet -n '__fish_seen_subcommand_from {verb.name}'"
        if verb.words:
            lines.append(f"{here} -a {_quoted(' '.join(verb.words), fish=True)}")
        for option in verb.options:
            names = [f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names]
            value = f" -x -a {_quoted(' '.join(option.values), fish=True)}" if option.values else ""
            value = value or (" -r -F" if option.takes else "")
            purpose = _quoted(option.purpose, fish=True)
            lines.append(f"{here} {' '.join(names)}{value} -d {purpose}")
    return "\n".join(lines) + "\n"


def _lines(lines: Sequence[str], indent: int) -> str:
    return f"\n{' ' * indent}".join(lines)


def _quoted(text: str, *, fish: bool = False) -> str:
    """`text` as one word of a shell."""
    if fish:
        text = text.replace("\\", "\\\\").replace("'", "\\'")
    else:
        text = text.replace("'", "'\\''")
    return f"'{text}'"


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
