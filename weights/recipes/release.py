"""From a trained network to what is released: folded, halved, with a model card beside it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import refnet
from refnet.checkpoints import save
from refnet.graph import Graph
from refnet.ops import Array
from refnet.passes import fold

#: What every card answers, in this order.
SECTIONS = ("Data", "Split", "Figures", "Limits", "Not for", "Terms", "Made by")


def released_tensors(
    graph: Graph, weights: Mapping[str, Array]
) -> tuple[dict[str, Any], dict[str, Array]]:
    """(options, tensors) of the network as it is released.

    Batch norms are folded into the convolutions before them (so options gain form "inference"), and
    tensors of more than one axis, nearly all of the bytes, are stored in float16. Biases stay float32.
    """
    options = dict(graph.options)
    if "form" in options:
        _, weights = fold(graph, dict(weights))
        options["form"] = "inference"
    tensors = {
        name: np.asarray(weights[name], np.float16 if len(shape) > 1 else np.float32)
        for name, shape in refnet.build(graph.name, **options).parameters.items()
    }
    return options, tensors


def release(
    path: Path,
    graph: Graph,
    weights: Mapping[str, Array],
    title: str,
    sections: Mapping[str, str],
    settings: Mapping[str, Any],
) -> Path:
    """Write `path` (safetensors) and its card, and return the card's path.

    Args:
        sections: text for each of `SECTIONS` but the last.
        settings: what the recipe was run with; the last section.
    """
    options, tensors = released_tensors(graph, weights)
    save(path, graph.name, options, tensors)
    made = [f"- {name}: {value}" for name, value in settings.items()]
    made += [
        f"- torch {torch.__version__}, refnet {refnet.__version__}, Python {platform.python_version()}"
    ]
    text = {**sections, "Made by": "\n".join(made)}
    if missing := [name for name in SECTIONS if name not in text]:
        raise ValueError(f"the card of {path.name} lacks {', '.join(missing)}")
    body = "\n\n".join(f"## {name}\n\n{text[name].strip()}" for name in SECTIONS)
    size = path.stat().st_size
    head = f"# {title}\n\n`{path.name}`: {graph.name}, {_described(options)}; {size:,} bytes."
    card = path.with_suffix(".md")
    card.write_text(f"{head}\n\n{body}\n", encoding="utf-8")
    return card


def _described(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def rows(figures: Mapping[str, float]) -> str:
    """A Markdown table of figures."""
    lines = ["| figure | value |", "| --- | --- |"]
    return "\n".join(lines + [f"| {name} | {value:.4f} |" for name, value in figures.items()])
