"""The parser of all verbs: errors in one line, which name the option that was probably meant."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from refnet.errors import printable

#: {verb: what it does, in a line}, in the order of the overview; each has a file of its name in this folder.
VERBS: Mapping[str, str] = {
    "faces": "find faces and their 98 landmarks in photos, folders, videos or a camera",
    "detect": "find boxes of anything: faces, heads, people, plates, balls, with their class",
    "blur": "hide the faces in photos, folders and videos",
    "landmarks": "find the landmarks of faces whose boxes are known",
    "networks": "list the networks, their size, and which have weights",
    "info": "show a network layer by layer",
    "rf": "show what a network's units see, in closed form",
    "erf": "measure what a network's units look at",
    "run": "run a network on an array in a .npy file",
    "convert": "turn a checkpoint of any format into safetensors",
    "export": "write a network with its weights as ONNX",
    "evaluate": "measure a network on photos with true points or boxes",
    "bench": "measure how fast networks run here",
    "warmup": "compile the kernels ahead of the first run",
    "doctor": "show versions, CPU, backend and cache, and run a self-test",
    "completion": "print what a shell needs to complete refnet's words",
}
#: The exit code of a wrong call.
WRONG_CALL = 2
_NUMBERS = re.compile(r"-[\d.][\d.,e+-]*")

_NO_GPU = "refnet runs on the CPU and has no such option; --threads sets the number of threads"
_NO_INPUT = "what is read stands without an option: refnet {verb} {first}"
_NO_NMS = "refnet.Detector has it in Python, as nms_threshold and top_k"

#: What other programs call something: what it is here, the first that a verb has; or a sentence.
_GROUPS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("--output", "--out", "--outdir", "--out-dir", "--output-dir", "--save-dir", "--project"): ("-o",),
    ("--save-path", "--dest", "--destination", "--outfile", "--output-file"): ("-o",),
    ("--source", "--input", "-i", "--img", "--image", "--images", "--video"): ("", _NO_INPUT),
    ("--path", "--file", "--input-dir", "--data-dir", "--camera", "--webcam"): ("", _NO_INPUT),
    ("--conf", "--conf-thres", "--conf-threshold", "--confidence"): ("--threshold",),
    ("--score", "--score-threshold", "--det-thresh", "--thresh", "-t"): ("--threshold", "--threads"),
    ("--min-confidence", "--confidence-threshold", "--prob", "--min-score"): ("--threshold",),
    ("--model", "-m", "--weights", "--network", "--net", "--model-path", "--onnx"): ("--detector", "--network"),
    ("--detector-weights", "--detector-model", "--det-model", "--backbone"): ("--detector",),
    ("--landmarks", "--landmarks-weights", "--landmark-model", "--kps"): ("--landmarker",),
    ("--boxes-only", "--no-landmarks", "--detect-only"): ("--landmarker none",),
    ("--imgsz", "--img-size", "--det-size", "--input-size", "--size", "--scale"): ("--min-size",),
    ("--resize-scale", "--min-face-size", "--min-face", "--minsize"): ("--min-size",),
    ("--device", "--gpu", "--gpus", "--cuda", "--ctx", "--ctx-id", "--cpu"): ("", _NO_GPU),
    ("--providers", "--execution-provider", "--half", "--fp16"): ("", _NO_GPU),
    ("--nosave", "--no-save", "--no-draw", "--nodraw", "--no-output"): ("--no-media",),
    ("--save-txt", "--save-json", "--save-csv", "--csv", "--format"): ("--results", "--json"),
    ("--show", "--view", "--view-img", "--preview", "-p"): ("--open",),
    ("--save-crop", "--save-crops", "--crop", "--extract"): ("--crops",),
    ("--align", "--align-size", "--aligned-size"): ("--aligned",),
    ("--force", "-f", "-y", "--exist-ok", "--clobber", "--yes"): ("--overwrite", "--force"),
    ("--silent", "--disable-progress-output", "--no-progress"): ("-q",),
    ("--verbose", "-v", "--log-level"): ("--debug",),
    ("--workers", "--jobs", "-j", "--num-threads", "--cores", "--nthreads"): ("--threads",),
    ("--mask-scale", "--enlarge", "--padding", "--pad"): ("--margin", "--crops"),
    ("--replacewith", "--mode", "--anonymization", "--type"): ("--method",),
    ("--boxes", "--bbox", "--bboxes"): ("--box", "--shape box"),
    ("--ellipse",): ("--shape ellipse",),
    ("--blur", "--mosaic", "--pixelate", "--solid"): ("--method",),
    ("--mosaicsize", "--blur-size", "--kernel"): ("--method",),
    ("--keep-audio", "-k", "--audio"): ("", "drawn copies of videos have no sound"),
    ("--recursive", "-r", "-R"): ("", "folders are searched through without an option"),
    ("--nms", "--nms-thresh", "--nms-threshold", "--iou", "--iou-thres"): ("", _NO_NMS),
    ("--top-k", "--max-det", "--max-num", "--max-faces"): ("", _NO_NMS),
    ("--option", "--width"): ("", "options follow a network's name: lffd-face-v2:width=0.5"),
    ("--smooth",): ("--no-smooth",),
    ("--passes", "--backend"): ("--detector",),
}  # fmt: skip
ELSEWHERE = {word: meant for words, meant in _GROUPS.items() for word in words}


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations and ends a wrong call in one line and a short usage."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", Formatter)
        super().__init__(allow_abbrev=False, **settings)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse; but an option that there is not is an error that names the nearest one."""
        words = self._joined(sys.argv[1:] if args is None else list(args))
        if self._subparsers is None:
            self._check_options(words)
        found: tuple[argparse.Namespace, list[str]] = super().parse_known_args(words, namespace)
        if self._subparsers is None and found[1]:
            self.error(f"{found[1][0]!r} is one argument too many")
        return found

    def _joined(self, words: list[str]) -> list[str]:
        """`--box -5,0,30,30` as `--box=-5,0,30,30`, which argparse would take for an option."""
        joined: list[str] = []
        for word in words:
            action = self._option_string_actions.get(joined[-1]) if joined else None
            if action is not None and action.nargs is None and _NUMBERS.fullmatch(word):
                joined[-1] += f"={word}" if joined[-1].startswith("--") else word
            else:
                joined.append(word)
        return joined

    def _check_options(self, words: Sequence[str]) -> None:
        """End with an error at the first option that there is not."""
        skip = False
        for word in words:
            if word == "--":
                return
            if skip:
                skip = False
                continue
            name = word.partition("=")[0]
            if word[:1] != "-" or word == "-" or _NUMBERS.fullmatch(word):
                continue
            action = self._option_string_actions.get(name)
            if action is None and not name.startswith("--"):  # -t0.5, -qo DIR
                action = self._option_string_actions.get(name[:2])
                known = all(f"-{c}" in self._option_string_actions for c in name[1:])
                action = action if action is not None and (action.nargs != 0 or known) else None
                skip = False
            elif action is not None:
                skip = action.nargs is None and "=" not in word
            if action is None:
                self.error(self._unknown(name))

    def _unknown(self, name: str) -> str:
        """The sentence about an option that there is not."""
        known = [option for option in self._option_string_actions if option.startswith("--")]
        sentence = f"there is no option {name}"
        for meant in ELSEWHERE.get(name.replace("_", "-"), ()):
            if meant[:1] == "-" and meant.split()[0] in self._option_string_actions:
                return f"{sentence}; did you mean {meant}?"
            if meant and meant[0] != "-":
                first = next((a.metavar or a.dest for a in self._get_positional_actions()), "")
                return f"{sentence}: {meant.format(verb=self.prog.split()[-1], first=first)}"
        import difflib  # only a mistake needs it

        near = difflib.get_close_matches(name.replace("_", "-").lower(), known, 1, 0.6)
        return f"{sentence}; did you mean {near[0]}?" if near else sentence

    def error(self, message: str) -> NoReturn:
        """Print one line and the short usage, and exit with 2."""
        # argparse begins with the option's spellings, which our own sentences name.
        message = re.sub(r"^argument [^:]*(--[\w-]+|-\w)[^:]*: (?=\1 )", "", message)
        choice = r"argument (?:-\w/)?(\S+): invalid choice: (.*) \(choose from (.*)\)"
        if match := re.fullmatch(choice, message):
            message = f"{match[1]} is one of {match[3].replace(chr(39), '')}, not {match[2]}"
        if match := re.fullmatch(r"the following arguments are required: (.*)", message):
            message = f"{match[1]} is missing"
        usage = " ".join(self.format_usage().split())
        self.exit(WRONG_CALL, f"{printable(f'{self.prog}: {message}')}\n{usage}\n")


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal, up to 100 columns."""

    def __init__(self, prog: str, **settings: Any) -> None:
        settings.setdefault("max_help_position", 26)
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdecimal() else os.get_terminal_size().columns if sys.stdout and sys.stdout.isatty() else 100  # fmt: skip
        super().__init__(prog, width=max(40, min(100, width)), **settings)


def add_verb(subparsers: Any, name: str, usage: str, **settings: Any) -> Parser:
    """The parser of a verb of `VERBS`.

    Args:
        usage: what follows the verb, such as "PATH... [-o DIR]".
        settings: as `Parser`; the description is the verb's purpose where none is given.
    """
    purpose = VERBS[name]
    settings.setdefault("description", f"{purpose[:1].upper()}{purpose[1:]}.")
    parser: Parser = subparsers.add_parser(
        name, help=purpose, usage=f"refnet {name} {usage}".rstrip(), **settings
    )
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    return parser
