"""What the verbs share that go over photos and videos: their paths, their output, the run itself."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from refnet.cli.arguments import (
    add_decoder,
    add_json,
    add_threads,
    naming,
    network,
    threshold,
    whole_number,
)
from refnet.cores import thread_count
from refnet.detection.detector import Detector
from refnet.errors import OptionError, printable
from refnet.media.images import IMAGE_SUFFIXES
from refnet.media.mark import hide_from_git
from refnet.media.sources import Sources, absent, find_sources
from refnet.networks.defaults import DETECTOR
from refnet.results.copies import AnnotatedCopies, FaceCrops, Render
from refnet.results.job import Job, Outcome, Progress, counted
from refnet.results.sinks import SUFFIXES

D = TypeVar("D", bound=Detector)

PATHS = (
    "a file, a folder, a pattern, a camera's number, an address (rtsp://, http://), or - for a list"
)


def add_paths(parser: argparse.ArgumentParser) -> None:
    """The positional PATH..."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help=PATHS)


def add_output(group: argparse._ActionsContainer, folder: str | None, results: str) -> None:
    """What is written, and where; `folder` is the default of -o."""
    default = f" (default: {folder})" if folder else ""
    group.add_argument(
        "-o",
        "--output",
        metavar="DIR|FILE",
        help=f"a folder, or with one input a picture or an .mp4{default}",
    )
    add_json(group)
    group.add_argument("--results", metavar="FILE", help=results)
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="redo everything, also what was done with the same settings",
    )
    group.add_argument("--open", action="store_true", help="show the first drawing at the end")
    group.add_argument("-q", "--quiet", action="store_true", help="print failures only")


def add_detector(group: argparse._ActionsContainer) -> None:
    """`--detector` and `--decoder`."""
    group.add_argument("--detector", default=DETECTOR, metavar="N", help="default: %(default)s")
    add_decoder(group)


def make_detector(arguments: argparse.Namespace, kind: type[D]) -> D:
    """The detector that the arguments ask for. Raises as `refnet.Detector`."""
    with naming({"--detector": arguments.detector}):
        return kind(
            network(arguments.detector),
            threshold=arguments.threshold,
            min_size=arguments.min_size,
            decoder=arguments.decoder,
            threads=arguments.threads,
        )


def add_detection(group: argparse._ActionsContainer) -> None:
    """`--threshold`, `--min-size` and `--threads`."""
    group.add_argument(
        "--threshold",
        type=threshold,
        metavar="0..1",
        help="keep what scores above this; lower finds more (default: the network's)",
    )
    group.add_argument(
        "--min-size",
        type=whole_number("--min-size"),
        metavar="PX",
        help="find from this size on (default: 20, more in photos above 1280 pixels)",
    )
    add_threads(group)


def run_job(
    arguments: argparse.Namespace,
    make: Callable[[argparse.Namespace], Any],
    *,
    folder: str | None,
    render: Render,
    results: str | None = None,
    crops: FaceCrops | None = None,
    **settings: Any,
) -> int:
    """Go over the paths of `arguments`, and return the exit code.

    Args:
        make: the analyzer for the arguments. Of several photos as many are analyzed at once as `--threads` or the
            cores at hand allow, each network in one thread; of one photo or a video each network has them all.
        folder: where drawings go without -o; None writes none.
        render: what is drawn.
        results: the name of the results in the folder; None writes none without --results.
        crops: writes the faces cut out.
        settings: of the `Job`.
    """
    # FFmpeg's own lines about broken files say less than ours, and more of them.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    output = arguments.output or (None if arguments.json else folder)
    if getattr(arguments, "no_media", False):
        render_into: Path | None = None
    else:
        render_into = None if output is None else Path(output)
    sources = find_sources(
        arguments.paths, _typed_lines() if "-" in arguments.paths else (), exclude=render_into
    )
    for note in sources.notes:
        _say(note)
    if not sources:
        if not sources.notes:
            _say("nothing to look at: the list of paths is empty")
        return 1
    if not _any_there(sources):
        return 1
    copies = None if render_into is None else _copies(render_into, sources, render)
    target = _results(arguments, results, output, copies)
    if output is not None and copies is None and target == _inside(output, results):
        _hide_new(Path(output))
    progress = Progress(bar=not arguments.quiet, lines=not arguments.quiet and target != "-")
    workers = 1
    if len(sources) > 1 and all(source.kind == "image" for source in sources):
        workers = thread_count(arguments.threads)
        arguments = argparse.Namespace(**{**vars(arguments), "threads": 1})
    job = Job(
        make(arguments),
        target,
        copies=copies,
        crops=crops,
        overwrite=arguments.overwrite,
        progress=progress,
        workers=workers,
        apart=True,
        **settings,
    )
    outcome = job.run(sources)
    if not arguments.quiet and (len(sources) > 1 or outcome.skipped or outcome.interrupted):
        _say(_summary(outcome, target))
    if not arguments.quiet and copies is not None and copies.codec == "mp4v":
        _say("videos are MPEG-4 Part 2, which browsers do not show: this OpenCV writes no H.264")
    if arguments.open:
        _show(copies, sources)
    return 130 if outcome.interrupted else int(bool(outcome.failed))


def _show(copies: AnnotatedCopies | None, sources: Sources) -> None:
    """Show the first drawing that there is; where there is none or nothing shows it, say so."""
    import webbrowser  # here, since a first result waits for all imports above

    made = [] if copies is None else [copies.path(s) for s in sources if copies.path(s).exists()]
    if not made:
        _say("--open: there is no drawing to show")
    elif not webbrowser.open(made[0].resolve().as_uri()):
        _say(f"--open: nothing here shows pictures; the drawing is {made[0]}")


def _copies(output: Path, sources: Sources, render: Render) -> AnnotatedCopies:
    """The drawings in a folder; or in one file, where -o ends as one does and there is one input.

    Raises:
        OptionError: there are several inputs, or one of another kind.
    """
    suffix = output.suffix.lower()
    if suffix in SUFFIXES or suffix == ".json":
        raise OptionError(f"-o is for drawings; numbers go to --results {output}")
    if output.is_dir() or suffix not in {*IMAGE_SUFFIXES, ".mp4", ".avi", ".mov", ".mkv", ".gif"}:
        return AnnotatedCopies(output, render)
    if len(sources) != 1:
        raise OptionError(
            f"-o {output} is one file, and there are {len(sources)} inputs; name a folder"
        )
    wanted = IMAGE_SUFFIXES if sources[0].kind == "image" else {".mp4"}
    if suffix not in wanted:
        what = "a photo's drawing ends" if sources[0].kind == "image" else "a video's drawing ends"
        raise OptionError(f"{what} in {', '.join(sorted(wanted))}, not in {suffix}")
    return AnnotatedCopies(output.parent, render, file=output)


def _results(
    arguments: argparse.Namespace,
    name: str | None,
    output: str | None,
    copies: AnnotatedCopies | None,
) -> str | None:
    """The file of the results, "-" to print them; None for none."""
    if arguments.json:
        if arguments.results:
            raise OptionError(
                "--json prints the results and --results FILE writes them; pass one of the two"
            )
        return "-"
    if arguments.results:
        return str(arguments.results)
    if name is None or output is None or (copies is not None and copies.file is not None):
        return None
    return _inside(output, name)


def _hide_new(folder: Path) -> None:
    """Have Git leave alone a folder that is still to be made; drawings do the same with theirs."""
    if not os.path.lexists(folder):
        hide_from_git(folder)


def _inside(output: str, name: str | None) -> str | None:
    """The place of the results in the folder `output`."""
    return None if name is None else str(Path(output) / name)


def _any_there(sources: Sources) -> bool:
    """Whether any source is there; else a line for each that is not, and nothing is written."""
    reasons: list[str] = []
    for source in sorted(sources, key=lambda source: source.kind == "camera"):  # files are quicker
        reason = absent(source)
        if reason is None:
            return True
        reasons.append(reason)
    for reason in reasons:
        _say(reason)
    return False


def _typed_lines() -> Iterable[str]:
    """The lines of standard input, which are paths.

    Raises:
        OptionError: it is closed, or holds something else.
    """
    if sys.stdin is None:
        raise OptionError("- reads paths from standard input, which is closed")
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:
        yield from sys.stdin
        return
    for line in stream:
        if b"\0" in line or line[:4] in (b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe1", b"\x89PNG"):
            what = (
                "a JPEG" if line[:2] == b"\xff\xd8" else "a PNG" if line[1:4] == b"PNG" else "data"
            )
            raise OptionError(f"- reads paths, one a line, and standard input holds {what}")
        yield os.fsdecode(line)


def _say(message: str) -> None:
    print(printable(f"refnet: {message}"), file=sys.stderr, flush=True)


def _summary(outcome: Outcome, results: str | None) -> str:
    """One line about the run."""
    parts = [counted(outcome.images, "image")] if outcome.images else []
    if outcome.frames:
        parts.append(f"{counted(outcome.frames, 'frame')} of {counted(outcome.videos, 'video')}")
    parts = [*(parts or ["nothing new"]), counted(outcome.faces, outcome.what)]
    if outcome.interrupted:
        parts.insert(0, "interrupted")
    if outcome.skipped:
        parts.append(f"{outcome.skipped} done before")
    if outcome.failed:
        parts.append(f"{len(outcome.failed)} failed")
    line = ", ".join(parts)
    return line if results is None else f"{line}: {'printed' if results == '-' else results}"
