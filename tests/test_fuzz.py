"""A short, equal run of what `python -m tests.fuzz` does for as long as one likes; and all that it ever found."""

from pathlib import Path
from random import Random

import pytest

from tests.fuzz import corpus
from tests.fuzz.mutation import mutated
from tests.fuzz.targets import CORPUS, TARGETS, Target, finding, register

ROUNDS = 200
IN_SUITE = sorted(name for name, target in TARGETS.items() if target.in_suite)


def available(name: str) -> Target:
    target = TARGETS[name]
    if not target.available:
        pytest.skip(f"this target needs the package {target.needs}")
    return target


@pytest.mark.parametrize("name", IN_SUITE)
def test_the_corpus_and_all_findings_raise_nothing_but_our_errors(
    name: str, tmp_path: Path
) -> None:
    target = available(name)
    assert len(target.corpus()) >= 2
    for path in target.corpus():
        assert not finding(target, path.read_bytes(), tmp_path), path.name


@pytest.mark.parametrize("name", IN_SUITE)
def test_mutations_of_the_corpus_raise_nothing_but_our_errors(name: str, tmp_path: Path) -> None:
    target, random = available(name), Random(f"suite {name}")
    pool = [path.read_bytes() for path in target.corpus()]
    for number in range(ROUNDS):
        content = mutated(random.choice(pool), pool, random)
        assert not finding(target, content, tmp_path), f"mutation {number}"


def test_the_corpus_is_made_by_its_script() -> None:
    pytest.importorskip("onnx")
    for target, name, content in corpus.contents():
        kept = (CORPUS / target / name).read_bytes()
        if not target.startswith("onnx") and not name.startswith(
            "compressed"
        ):  # by their packages' version
            assert kept == content, f"{target}/{name}"


def test_what_counts_as_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.targets.TARGETS", {})

    def of(error: Exception | None) -> str:
        def run(content: bytes, folder: Path) -> None:
            if error is not None:
                raise error

        register("drawn")(run)
        return finding(Target("drawn", run), b"", tmp_path)

    import refnet

    assert of(None) == ""
    assert of(refnet.CheckpointError("a line")) == ""
    assert of(refnet.CheckpointError("a line" * 1000)).startswith("CheckpointError whose message")
    assert of(KeyError("key")).startswith("KeyError: ")
    exhausted = refnet.CheckpointError("too large")
    exhausted.__cause__ = MemoryError()
    assert of(exhausted).startswith("memory exhausted")
