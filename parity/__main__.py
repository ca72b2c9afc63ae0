"""`python -m parity`: refnet beside torch, network by network, as a table."""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path

import torch

from parity.cases import Case, cases
from parity.compare import TOLERANCES, Result, compare
from refnet.errors import BackendError

DTYPES = ("float64", "float32")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m parity",
        description="Compare refnet with torch: outputs and input gradients of every network. "
        "Exits with 1 if a difference is above its tolerance.",
    )
    p.add_argument("--network", default="*", metavar="GLOB", help="only networks of this name")
    p.add_argument("--dtype", choices=DTYPES, help="only this number format")
    p.add_argument("--backend", choices=("numpy", "compiled"), default="numpy")
    p.add_argument("--quick", action="store_true", help="small sizes and widths, one image")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")
    p.add_argument("--threads", type=int, default=1, help="threads that torch may use (1)")
    return p


def select(arguments: argparse.Namespace) -> list[Case]:
    """The cases that the command line asks for."""
    return [
        case
        for case in cases()
        if fnmatch(case.network, arguments.network) and (case.quick or not arguments.quick)
    ]


class Table:
    """Prints results as they come, in columns as wide as the longest entry to come."""

    def __init__(self, chosen: Iterable[Case]) -> None:
        chosen = list(chosen)
        self.network = max(len(case.network) for case in chosen)
        self.options = max(len("options"), *(len(case.describe_options()) for case in chosen))

    def header(self) -> str:
        line = self._line(
            "network", "options", "size", "batch", "backend", "dtype", "quantity", "max error",
            "mean error", "tolerance", "",
        )  # fmt: skip
        return f"{line}\n{'-' * len(line)}"

    def row(self, r: Result) -> str:
        return self._line(
            r.network, r.options, f"{r.height}x{r.width}", str(r.batch), r.backend, r.dtype,
            r.quantity, f"{r.max_error:.1e}", f"{r.mean_error:.1e}", f"{r.tolerance:.0e}",
            "pass" if r.passed else "FAIL",
        )  # fmt: skip

    def _line(self, *cells: str) -> str:
        name, options, size, batch, backend, dtype, quantity, *numbers, verdict = cells
        return (
            f"{name:{self.network}}  {options:{self.options}}  {size:>7}  {batch:>5}  {backend:7}  "
            f"{dtype:7}  {quantity:8}  " + "  ".join(f"{n:>10}" for n in numbers) + f"  {verdict:4}"
        ).rstrip()


def summary(results: Sequence[Result], seconds: float) -> str:
    """The worst error of each network, dtype and quantity, then one line with the verdict."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for r in results:
        groups.setdefault((r.dtype, r.quantity, r.backend), []).append(r)
    lines = [
        f"{dtype} {quantity}, {backend}: largest error {max(r.max_error for r in group):.1e} "
        f"({max(group, key=lambda r: r.max_error).network}), {len(group)} comparisons"
        for (dtype, quantity, backend), group in groups.items()
    ]
    failed = sum(not r.passed for r in results)
    networks = len({r.network for r in results})
    verdict = "all within tolerance" if not failed else f"{failed} ABOVE THEIR TOLERANCE"
    lines.append(f"{len(results)} comparisons of {networks} networks in {seconds:.0f} s: {verdict}")
    return "\n".join(lines)


def write_json(file: Path, results: Sequence[Result]) -> None:
    rows = [asdict(r) | {"passed": r.passed} for r in results]
    document = {"torch": torch.__version__, "passed": all(r.passed for r in results), "rows": rows}
    file.write_text(json.dumps(document, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the comparisons; 0 if all agree, 1 if one does not, 2 if nothing can be compared."""
    arguments = parser().parse_args(argv)
    torch.set_num_threads(arguments.threads)
    dtypes = (arguments.dtype,) if arguments.dtype else DTYPES
    chosen = select(arguments)
    if not chosen or not any((arguments.backend, dtype) in TOLERANCES for dtype in dtypes):
        print("parity: no case matches these options", file=sys.stderr)
        return 2
    table, results, start = Table(chosen), [], time.perf_counter()
    print(table.header())
    for case in chosen:
        try:
            for result in compare(case, dtypes, arguments.backend):
                results.append(result)
                print(table.row(result), flush=True)
        except BackendError as error:
            print(f"parity: {error}", file=sys.stderr)
            return 2
    print(summary(results, time.perf_counter() - start))
    if arguments.json:
        write_json(arguments.json, results)
    return int(any(not r.passed for r in results))


if __name__ == "__main__":
    sys.exit(main())
