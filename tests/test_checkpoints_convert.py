"""`refnet convert` prints what it recognised, writes a file that loads by itself, and guards files."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

import refnet
from refnet import OptionError, RefnetError, WeightsError
from refnet.checkpoints import read
from refnet.cli import convert, main
from tests import checkpoint_files as files


def converted(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    convert.add_parser(parser.add_subparsers())
    return convert.run(parser.parse_args(["convert", *map(str, words)]))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A PyTorch file of the training form of pfld at width 0.25, counters included, in a wrapper."""
    random = np.random.default_rng(0)
    state = {
        name: np.ones(1, np.float32).reshape(())
        if name.endswith("tracked")
        else np.abs(random.standard_normal(shape, np.float32))  # variances among them
        for name, shape in refnet.build("pfld", width=0.25).state_dict.items()
    }
    raw = {str(i): array.tobytes() for i, array in enumerate(state.values())}
    path = tmp_path / "trained.pth"
    path.write_bytes(files.torch_zip(files.mapping({"net": files.state_dict(state)}), raw))
    return path


def test_what_is_printed_is_what_is_written(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.safetensors"
    assert converted(source, output) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines() == [
        "format   torch zip, state dict net",
        "network  pfld",
        "options  width=0.25 input_size=112 landmarks=98 form=training",
        "tensors  213",
        "ignored  42 num_batches_tracked",
        f"wrote    {output} ({output.stat().st_size:,} bytes)",
    ]
    model = refnet.load(output)
    assert model.graph.name == "pfld" and model.graph.options["width"] == 0.25
    assert not any(name.endswith("tracked") for name in read(output).tensors)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.safetensors", "trained.pth"]


def test_json_reports_network_state_dict_and_what_was_ignored(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    converted(source, tmp_path / "out.safetensors", "--json", "--network", "pfld")
    report = json.loads(capsys.readouterr().out)
    assert report["network"] == "pfld" and report["state_dict"] == "net"
    assert report["tensors"] == 213 and len(report["ignored"]) == 42


def test_an_existing_file_is_kept_without_overwrite(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    output.write_bytes(b"precious")
    with pytest.raises(OptionError, match="is there; --overwrite"):
        converted(source, output)
    assert output.read_bytes() == b"precious"
    assert converted(source, output, "--overwrite") == 0
    assert refnet.load(output).graph.name == "pfld"


def test_a_failed_conversion_writes_nothing(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    calls: list[tuple[type[RefnetError], list[str | Path]]] = [
        (WeightsError, [tmp_path / "absent.pth", output]),
        (OptionError, [source, tmp_path / "out.pth"]),
        (WeightsError, [source, output, "--network", "tinynet"]),
        (WeightsError, [source, output, "--network", "pfld:landmarks=68"]),
        (OptionError, [source, output, "--network", "pfld:width"]),
        (OptionError, [source, output, "--network", "pfld:wdith=1"]),
        (WeightsError, [source, output, "--state-dict", "nothing"]),
    ]
    for error, words in calls:
        with pytest.raises(error):
            converted(*words)
    assert [path.name for path in tmp_path.iterdir()] == ["trained.pth"]


def test_errors_are_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "module.pth"
    value = files.glob("their_code.Net") + b")\x81" + files.mapping({}) + b"b"
    path.write_bytes(files.torch_zip(value, {}))
    assert main(["convert", str(path), str(tmp_path / "out.safetensors")]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert "their_code.Net" in captured.err and "--inert" in captured.err


def test_options_that_no_tensor_shows_can_be_given(assets: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    trained = assets / "checkpoints/pfld_polaris_half_17points.pth.tar"
    assert converted(f"{trained}:activation=relu6", output) == 0
    options = refnet.load(output).graph.options
    assert options["activation"] == "relu6" and options["bn8"] == "applied"


@pytest.mark.parametrize(
    ("name", "value"), [("conv1.1.running_var", -1.0), ("fc.bias", np.nan), ("fc.weight", 1e38)]
)
def test_impossible_numbers_are_not_converted(tmp_path: Path, name: str, value: float) -> None:
    graph = refnet.build("pfld", width=0.25)
    state = {n: np.ones(shape, np.float32) for n, shape in graph.state_dict.items()}
    state[name].flat[0] = value
    np.savez(tmp_path / "in.npz", **state)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=rf"'{name}' of pfld holds .*nothing was written"):
        converted(tmp_path / "in.npz", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_name_that_no_file_can_have_is_refused(source: Path) -> None:
    with pytest.raises(WeightsError, match=r"out\\x00\.safetensors: cannot be written"):
        converted(source, "out\0.safetensors")
