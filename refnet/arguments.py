"""Errors about calls and attributes that do not exist, which name the one that was probably meant.

Functions and classes spell out their keywords. For any other word, an error suggests the nearest of them,
or what refnet calls the argument that another library has under this name.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from refnet.errors import ArgumentError, OptionError

P = ParamSpec("P")
R = TypeVar("R")

#: {another library's name of an argument: refnet's}; the first one that a function has is suggested.
KEYWORDS: Mapping[str, tuple[str, ...]] = {
    "bboxes": ("boxes",),
    "conf": ("threshold",),
    "conf_thres": ("threshold",),
    "confidence": ("threshold",),
    "confidence_threshold": ("threshold",),
    "det_size": ("min_size",),
    "detector_weights": ("detector",),
    "det_thresh": ("threshold",),
    "engine": ("backend", "on"),
    "fps": ("time",),
    "image_size": ("size",),
    "imgsz": ("min_size",),
    "input_size": ("min_size",),
    "iou": ("nms_threshold", "overlap"),
    "landmarker_weights": ("landmarker",),
    "max_num": ("top_k",),
    "method": ("shape",),
    "min_confidence": ("threshold",),
    "min_detection_confidence": ("threshold",),
    "min_face_size": ("min_size",),
    "minimum_side": ("min_size",),
    "model_path": ("model", "detector", "name_or_file"),
    "num_faces": ("top_k",),
    "num_threads": ("threads",),
    "passes": ("refine",),
    "providers": ("backend",),
    "resize_scale": ("scales", "min_size"),
    "score_threshold": ("threshold",),
    "skip_branches": ("branches",),
    "timestamp": ("time",),
    "timestamp_ms": ("time",),
}
#: What is set when an object is made, not in its calls.
SETTINGS = frozenset({"backend", "branches", "min_size", "nms_threshold", "scales", "threads"})
SETTINGS |= {"refine", "threshold", "top_k"}

#: {another library's name of a method or attribute: what does the same here}.
METHODS: Mapping[str, str] = {
    **dict.fromkeys(
        ("get", "predict", "infer", "process", "analyze"), "a call, as in analyzer(image)"
    ),
    **dict.fromkeys(
        ("detect_faces", "detectMultiScale", "detect_for_video"), "a call with the image"
    ),
    **dict.fromkeys(("detect_batch", "predict_batch", "detect_many"), "batch"),
    "get_landmarks": "a call, as in landmarker(image, boxes)",
    "track": "refnet.FaceTracker",
    "stream": "refnet.FaceTracker().video(path)",
    "prepare": "the arguments of the class: threshold, min_size, threads",
    "setInputSize": "a call: an image of any size will do",
    "names": "classes",
    "to": "nothing: networks run on the CPU",
    "cuda": "nothing: networks run on the CPU",
    "eval": "nothing: networks only run",
}


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that was probably meant by `word`: a typing error away, or a part of it."""
    import difflib  # only a mistake needs it

    names = list(known)
    if misspelt := difflib.get_close_matches(word, names, 1, 0.85):
        return misspelt[0]
    parts = [name for name in names if name in word or word in name]
    likely = difflib.get_close_matches(word, parts or names, 1, 0.0 if parts else 0.5)
    return likely[0] if likely else None


def explicit(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, whose unknown keywords raise an error that names the nearest one.

    Raises:
        ArgumentError: by the function that is returned.
    """
    named = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"
    ]
    known = frozenset(named)
    caller = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def checked(*arguments: P.args, **keywords: P.kwargs) -> R:
        for word in keywords:
            if word not in known:
                raise ArgumentError(unknown_keyword(caller, word, named))
        return function(*arguments, **keywords)

    return checked


def unknown_keyword(caller: str, word: str, known: Iterable[str]) -> str:
    """The sentence about a keyword `word` that `caller`, which takes `known`, does not have."""
    known = list(known)
    meant = KEYWORDS.get(word, (word,))
    same = [ours for ours in meant if ours in known]
    kind, _, method = caller.partition(".")
    if not same and method and meant[0] in SETTINGS:
        return f"a call of {kind} has no argument {word}; set {meant[0]} when it is made"
    near = same[0] if same else nearest(word, known)
    hint = f"did you mean {near}?" if near else f"it takes {', '.join(known)}"
    return f"{caller.removesuffix('.__call__')} has no argument {word}; {hint}"


class CalledWithImages:
    """A class whose objects are called with one image, and say so to those who look for a method."""

    if not TYPE_CHECKING:  # so that type checkers report names that do not exist

        def __getattr__(self, name: str) -> Any:
            raise unknown_attribute(self, name, METHODS)


def unknown_attribute(owner: Any, name: str, elsewhere: Mapping[str, str]) -> AttributeError:
    """The error about an attribute that `owner` does not have.

    Args:
        elsewhere: {what other libraries call something: what it is here}.
    """
    kind = type(owner).__name__
    public = [word for word in dir(type(owner)) if not word.startswith("_")]
    public += list(getattr(type(owner), "__dataclass_fields__", ()))
    meant = elsewhere.get(name) or (None if name.startswith("_") else nearest(name, public))
    hint = f"; did you mean {meant}?" if meant else ""
    return AttributeError(f"{kind} has no attribute {name!r}{hint}", name=name, obj=owner)


def checked_number(name: str, value: Any, low: float, high: float) -> float:
    """`value`, where it is a number of at least `low` and below `high`.

    Raises:
        OptionError: it is another number, or no number, such as a string.
    """
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not low <= value < high:
        between = f"lies in [{low:g}, {high:g})" if math.isfinite(high) else f"is at least {low:g}"
        share = number and low == 0 and high == 1 and 1 <= value <= 100
        hint = f"; for {value:g} % pass {value / 100:g}" if share else ""
        raise OptionError(f"{name} {between}, not {value!r}{hint}")
    return float(value)


def shown(kind: type, name: str, settings: Mapping[str, tuple[Any, Any]]) -> str:
    """The repr of an object that runs the network `name`.

    Args:
        settings: {argument: (value, default)}; those that differ are shown.
    """
    own = [f"{key}={value!r}" for key, (value, default) in settings.items() if value != default]
    return f"{kind.__name__}({', '.join([repr(name), *own])})"
