"""Every network is told from its tensors alone, under every name that files give them."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refnet
from refnet import OptionError, UnknownNetworkError, WeightsError
from refnet.checkpoints import Checkpoint, identify, read, save
from refnet.checkpoints.layers import Layer
from refnet.checkpoints.names import from_lffd_pytorch, without_wrapper
from refnet.networks.lffd import LAYERS
from refnet.ops import OPS
from refnet.random_weights import random_weights
from tests import checkpoint_files as files

PFLD = ("pfld", "pfld-msfc", "pfld-ultralight", "pfld-ultralight-slim", "pfld-ghostone")
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {"form": form}) for name in PFLD for form in ("training", "inference")),
    *((name, {"width": 0.25, "input_size": 96, "landmarks": 68}) for name in PFLD),
    ("pfld", {"width": 0.26}),  # conv1 has 16 channels, as at width 0.25
    ("pfld-ultralight-slim", {"width": 0.125}),
    ("pfld-polaris", {}),
    ("pfld-polaris", {"width": 0.5, "landmarks": 17, "conv2": "depthwise", "bn8": "applied"}),
    ("pfld-polaris", {"form": "inference"}),
    ("pfld-polaris-auxiliary", {}),
    ("pfld-polaris-auxiliary", {"width": 0.5, "form": "inference"}),
    *(
        (name, {"width": width})
        for name in refnet.networks()
        if name[:4] == "lffd"
        for width in (1, 0.5)
    ),
    ("basketnet", {}),
    ("basketnet", {"classes": 2}),
    ("tinynet", {}),
]


UNSAID = "ignore:.*the file does not say whether:RuntimeWarning"  # of polaris: tested below


def random_state(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """A state dict as PyTorch would save it, of random numbers; batch norms have run."""
    random = np.random.default_rng(7)
    state: dict[str, Any] = {}
    for tensor, shape in refnet.build(name, **options).state_dict.items():
        if tensor.endswith("num_batches_tracked"):
            state[tensor] = np.array(5)
        else:
            state[tensor] = random.standard_normal(shape, np.float32)
        if tensor.endswith("running_var"):
            state[tensor] = np.abs(state[tensor])
    if name == "pfld-polaris" and options.get("bn8") != "applied" and "bn8.weight" in state:
        state["bn8.running_mean"][:] = 0  # nothing ever ran through it
        state["bn8.running_var"][:] = 1
    return state


def checkpoint_of(tensors: dict[str, Any], **fields: Any) -> Checkpoint:
    state_dicts = fields.pop("state_dicts", {"": tensors})
    return Checkpoint(Path("a.file"), "torch zip", b"", tensors, state_dicts=state_dicts, **fields)


def assert_identified(checkpoint: Checkpoint, name: str, options: dict[str, Any]) -> None:
    found, told, tensors = identify(checkpoint)
    expected, built = refnet.build(name, **options), refnet.build(found, **told)
    assert found == name
    assert built.parameters == expected.parameters
    approximate = {key: value for key, value in built.options.items() if key != "width"}
    assert approximate == {k: v for k, v in expected.options.items() if k != "width"}
    assert list(tensors) == list(expected.parameters)


@pytest.mark.filterwarnings(UNSAID)
@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value))
def test_every_network_is_identified_by_its_own_names(name: str, options: dict[str, Any]) -> None:
    state = random_state(name, options)
    assert_identified(checkpoint_of(state), name, options)
    for prefix in ("module.", "model.", "module.pfld_backbone."):
        wrapped = {prefix + tensor: array for tensor, array in state.items()}
        assert_identified(checkpoint_of(wrapped), name, options)
    _, _, tensors = identify(checkpoint_of(state), name)
    assert all(tensors[tensor] is state[tensor] for tensor in tensors)


@pytest.mark.filterwarnings(UNSAID)
@pytest.mark.parametrize("name", refnet.networks())
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_are_identified_for_every_network(
    tmp_path: Path, name: str, zipped: bool
) -> None:
    torch = pytest.importorskip("torch")
    state = random_state(name, {})
    tensors = {tensor: torch.from_numpy(np.array(array)) for tensor, array in state.items()}
    path = tmp_path / "file.pth"
    for saved in (
        tensors,
        {f"module.{tensor}": array for tensor, array in tensors.items()},
        {"epoch": 3, "pfld_backbone": tensors, "auxiliarynet": {"w": torch.zeros(1)}},
        {"plfd_backbone": {f"module.{tensor}": array for tensor, array in tensors.items()}},
        {"state_dict": tensors, "optimizer": {"state": {0: {"step": torch.zeros(1)}}}},
    ):
        torch.save(saved, path, _use_new_zipfile_serialization=zipped)
        checkpoint = read(path)
        assert [a.tobytes() for a in checkpoint.tensors.values()] == [
            a.tobytes() for a in state.values()
        ]
        found, _, identified = identify(checkpoint)
        assert found == name
        assert all(identified[n].tobytes() == state[n].tobytes() for n in identified)


# --- names of other programs


@pytest.mark.parametrize("name", LAYERS)
def test_mxnet_names_are_identified(tmp_path: Path, name: str) -> None:
    state = random_state(name, {"width": 0.25})
    path = tmp_path / "file.params"
    path.write_bytes(files.mxnet_of(state))
    checkpoint = read(path)
    assert "conv1_weight" in checkpoint.tensors
    assert_identified(checkpoint, name, {"width": 0.25})


# Written out from becauseofai/lffd-pytorch: {their layer: the official one}, Resv2 numbering.
NAIVENET20 = {
    "conv1": 1,
    "layer1.0": 2,
    **{f"layer1.{m}.conv{i}": 2 * m + i for m in (1, 2, 3) for i in (1, 2)},
    "layer2.0": 9,
    "layer2.1.conv1": 10,
    "layer2.1.conv2": 11,
    "layer3.0": 12,
    "layer3.1.conv1": 13,
    "layer3.1.conv2": 14,
    "layer4.0": 15,
    "layer4.1.conv1": 16,
    "layer4.1.conv2": 17,
    "layer5.0": 18,
    "layer5.1.conv1": 19,
    "layer5.1.conv2": 20,
}
NAIVENET25 = {
    "conv1": 1,
    "stage1_1.0": 2,
    **{f"stage1_1.{m}.conv{i}": 2 * m + i for m in (1, 2, 3) for i in (1, 2)},
    "stage1_2_branch1.0.conv1": 9,
    "stage1_2_branch1.0.conv2": 10,
    "stage2_1.0": 11,
    "stage2_1.1.conv1": 12,
    "stage2_1.1.conv2": 13,
    "stage2_2_branch3.0.conv1": 14,
    "stage2_2_branch3.0.conv2": 15,
    "stage3_1.0": 16,
    "stage3_1.1.conv1": 17,
    "stage3_1.1.conv2": 18,
    "stage4_1.0": 19,
    "stage4_1.1.conv1": 20,
    "stage4_1.1.conv2": 21,
    "stage4_2_branch6.0.conv1": 22,
    "stage4_2_branch6.0.conv2": 23,
    "stage4_3_branch7.0.conv1": 24,
    "stage4_3_branch7.0.conv2": 25,
}


def resv1(layer: str) -> str:
    """The name in the net with post-activation blocks: they follow a ReLU, so count one higher."""
    layer = re.sub(r"_branch\d", "", layer)
    return re.sub(r"^(layer\d|stage\d_1)\.(\d)\.", lambda m: f"{m[1]}.{int(m[2]) + 1}.", layer)


@pytest.mark.parametrize("kind", ["pre-activation", "post-activation"])
@pytest.mark.parametrize(
    ("name", "trunk", "heads"),
    [
        ("lffd-face-v2", NAIVENET20, (8, 11, 14, 17, 20)),
        ("lffd-face-v1", NAIVENET25, (8, 10, 13, 15, 18, 21, 23, 25)),
    ],
)
def test_lffd_pytorch_names_are_identified(
    name: str, trunk: dict[str, int], heads: tuple[int, ...], kind: str
) -> None:
    official = {layer: f"conv{number}" for layer, number in trunk.items()}
    if kind == "post-activation":
        official = {resv1(layer): ours for layer, ours in official.items()}
    for branch, head in enumerate(heads, 1):
        official[f"branch{branch}.0.conv1"] = f"conv{head}_1"
        for tower in ("2_score", "3_score", "2_bbox", "3_bbox"):
            official[f"branch{branch}.0.conv{tower}"] = f"conv{head}_{tower}"
    state = random_state(name, {"width": 0.5})
    theirs = {
        f"{layer}.{role}": state[f"{ours}.{role}"]
        for layer, ours in official.items()
        for role in ("weight", "bias")
    }
    assert len(theirs) == len(state) == {"lffd-face-v2": 90, "lffd-face-v1": 130}[name]
    found, options, tensors = identify(checkpoint_of(theirs))
    assert found == name and options == {"width": 0.5, "residual": kind}
    assert all(tensors[tensor] is state[tensor] for tensor in state)


def test_names_of_lffd_pytorch_that_are_incomplete_are_left_alone() -> None:
    assert from_lffd_pytorch({"conv1.weight": 0, "layer1.0.weight": 0}) is None


def test_wrappers_are_taken_off_only_where_all_share_them() -> None:
    assert without_wrapper({"module.a": 1, "module.b.c": 2}) == {"a": 1, "b.c": 2}
    assert without_wrapper({"module.model.a": 1}) == {"a": 1}
    for kept in ({"module.a": 1, "b": 2}, {"conv1.a": 1, "conv1.b": 2}, {"module": 1}, {}):
        assert without_wrapper(kept) == kept


# --- names that say nothing


def anonymous(name: str, options: dict[str, Any], **metadata: str) -> Checkpoint:
    """A checkpoint as an exporter writes it: batch norms folded, tensors numbered, layers in order."""
    graph = refnet.build(name, form="inference", **options)
    state = random_state(name, {"form": "inference", **options})
    number = {tensor: str(591 + i) for i, tensor in enumerate(graph.parameters)}
    layers = tuple(
        Layer(node.op, *(number.get(node.parameters.get(role, "")) for role in ("weight", "bias")))  # type: ignore[arg-type]
        for node in graph.nodes
        if node.op in ("conv", "linear")
    )
    tensors = {number[tensor]: array for tensor, array in state.items()}
    tensors["onnx::Reshape_766"] = np.array([1, -1])
    return checkpoint_of(tensors, layers=layers, metadata=metadata)


@pytest.mark.filterwarnings(UNSAID)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pfld", {}),
        ("pfld-msfc", {"input_size": 96}),
        ("pfld-ultralight", {"landmarks": 68}),
        ("pfld-ultralight-slim", {"width": 0.5}),
        ("pfld-ghostone", {}),
        ("pfld-polaris", {"width": 0.5, "conv2": "depthwise"}),
        ("pfld-polaris-auxiliary", {}),
    ],
)
def test_numbered_tensors_are_identified_by_the_order_of_layers(
    name: str, options: dict[str, Any]
) -> None:
    checkpoint = anonymous(name, options)
    assert_identified(checkpoint, name, {"form": "inference", **options})
    _, _, tensors = identify(checkpoint, name)
    assert list(map(id, tensors.values())) == list(map(id, checkpoint.tensors.values()))[:-1]


def test_onnx_files_that_keep_batch_norms_are_identified_by_names() -> None:
    state = random_state("pfld-msfc", {})
    graph = refnet.build("pfld-msfc")
    layers = tuple(
        Layer(
            "conv" if n.op == "conv" else "linear", n.parameters["weight"], n.parameters.get("bias")
        )
        for n in graph.nodes
        if n.op in ("conv", "linear")
    )
    tensors = {name: state[name] for name in graph.parameters}
    constants = {"onnx::Clip_1": np.array(6, np.float32), "onnx::Reshape_2": np.array([1, -1])}
    assert_identified(checkpoint_of({**tensors, **constants}, layers=layers), "pfld-msfc", {})


def test_operators_decide_the_activation() -> None:
    _, options, _ = identify(anonymous("pfld-polaris", {}, operators="Clip=35 Conv=43"))
    assert options["activation"] == "relu6"


@pytest.mark.parametrize(("operators", "expected"), [("Clip=35", "relu6"), ("Relu=35", "relu")])
def test_operators_decide_the_activation_of_files_with_names_too(
    operators: str, expected: str
) -> None:
    checkpoint = checkpoint_of(random_state("pfld-polaris", {}), metadata={"operators": operators})
    _, options, _ = identify(checkpoint)
    assert options["activation"] == expected


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("pfld", "Clip=35 Conv=43"),  # ReLU6, which pfld does not have
        ("pfld", "Conv=43 LeakyRelu=35"),
        ("pfld", "Conv=43 PRelu=35"),
        ("pfld-polaris", "Clip=30 Conv=43 Relu=5"),
        ("pfld-polaris", "Clip(0.0,1.0)=35 Conv=43"),
        ("pfld-ghostone", "Conv=43 HardSwish=35"),
    ],
)
def test_activations_that_the_network_does_not_have_are_refused(name: str, operators: str) -> None:
    with pytest.raises(WeightsError, match=f"layers are those of {name}, but it has activations"):
        identify(anonymous(name, {}, operators=operators))


def trained(activation: str) -> dict[str, Any]:
    """A state dict of polaris whose running statistics are of images that went through this activation."""
    graph = refnet.build("pfld-polaris", width=0.25, activation=activation)
    weights = random_weights(graph, seed=3)
    x = np.random.default_rng(3).uniform(0, 1, (2, 3, 7, 7)).astype(np.float32)
    tensors = {graph.input: np.kron(x, np.ones((16, 16), np.float32))}  # patches, as photos have
    for node in graph.nodes:
        inputs = [tensors[name] for name in node.inputs]
        if node.op == "batch_norm":
            roles, (y,) = node.parameters, inputs
            weights[roles["running_mean"]] = y.mean((0, 2, 3))
            weights[roles["running_var"]] = y.var((0, 2, 3)) + np.float32(1e-3)
            weights[roles["weight"]] = np.full_like(y.mean((0, 2, 3)), 3)
            weights[roles["bias"]] = np.full_like(y.mean((0, 2, 3)), 2)
        parameters = {role: weights[name] for role, name in node.parameters.items()}
        tensors[node.name] = OPS[node.op].forward(*inputs, **parameters, **node.attributes)
    state = {n: np.zeros(shape, np.float32) for n, shape in graph.state_dict.items()}
    return {**state, **weights, "bn8.running_var": np.ones(128, np.float32)}


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_running_statistics_decide_the_activation(activation: str) -> None:
    state = trained(activation)
    other = {"relu": "relu6", "relu6": "relu"}[activation]
    for prefix in ("", "module."):
        checkpoint = checkpoint_of({prefix + name: array for name, array in state.items()})
        with pytest.warns(RuntimeWarning) as caught:
            _, options, _ = identify(checkpoint)
        assert options["activation"] == activation
        told = str(caught[0].message)
        assert len(caught) == 1 and told.isprintable()
        assert f"{activation} was taken, which its running statistics fit better" in told
        assert f"activation='{other}'" in told and f"--option activation={other}" in told
    _, options, _ = identify(checkpoint_of(state), activation=other)  # what the caller knows
    assert options["activation"] == other


def test_an_activation_that_nothing_shows_is_the_published_codes() -> None:
    state = random_state("pfld-polaris", {"form": "inference"})
    with pytest.warns(RuntimeWarning, match="relu was taken, as in the published code"):
        _, options, _ = identify(checkpoint_of(state))
    assert refnet.build("pfld-polaris", **options).options["activation"] == "relu"


def test_order_yields_to_a_name_that_contradicts_it() -> None:
    checkpoint = anonymous("pfld", {})
    tensors, layers = dict(checkpoint.tensors), list(checkpoint.layers)
    assert layers[4].bias is not None
    tensors["conv8.0.weight"] = tensors.pop(layers[4].weight)
    layers[4] = Layer("conv", "conv8.0.weight", layers[4].bias)
    swapped = dataclasses.replace(checkpoint, tensors=tensors, layers=tuple(layers))
    with pytest.raises(WeightsError, match="not those of a network known here"):
        identify(swapped)


# --- what the caller knows, and errors


def test_the_callers_options_override() -> None:
    state = random_state("pfld-polaris", {})
    _, options, _ = identify(checkpoint_of(state), activation="relu6", bn8="applied")
    assert options["activation"] == "relu6" and options["bn8"] == "applied"
    state = random_state("lffd-face-v1", {})
    _, options, _ = identify(checkpoint_of(state), residual="post-activation", input_size=640)
    assert options == {"width": 1.0, "residual": "post-activation", "input_size": 640}


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("pfld", {"name": 1}),
        ("pfld", {"width": 1e-300}),
        ("pfld", {"width": 10**400}),
        ("pfld-polaris", {"input_size": 10**400}),
        ("pfld", {"width": [[]]}),
        ("pfld", {"": 0}),
        ("no such network", {}),
    ],
)
def test_a_record_that_holds_anything_else_is_refused(
    network: str, options: dict[str, Any]
) -> None:
    record = {"refnet": "0", "network": network, "options": json.dumps(options)}
    said = f"its record says '{network}', which this version cannot"
    with pytest.raises(WeightsError, match=said) as caught:
        identify(checkpoint_of({"w": np.zeros(1)}, metadata=record))
    assert len(str(caught.value)) < 1000


@pytest.mark.filterwarnings(UNSAID)
def test_a_named_network_is_found_in_any_state_dict() -> None:
    main, auxiliary = random_state("pfld-polaris", {}), random_state("pfld-polaris-auxiliary", {})
    state_dicts = {"pfld_backbone": main, "auxiliarynet": auxiliary}
    checkpoint = checkpoint_of(main, chosen="pfld_backbone", state_dicts=state_dicts)
    assert identify(checkpoint)[0] == "pfld-polaris"
    name, _, tensors = identify(checkpoint, "pfld-polaris-auxiliary")
    assert name == "pfld-polaris-auxiliary" and tensors["fc2.bias"] is auxiliary["fc2.bias"]


def test_foreign_tensors_are_refused_with_what_was_found() -> None:
    auxiliary = random_state("pfld-polaris-auxiliary", {})
    foreign = {"layer.\x1b[31m": np.zeros((2, 3), np.float32)}
    state_dicts = {"": foreign, "auxiliarynet": auxiliary}
    with pytest.raises(WeightsError) as caught:
        identify(checkpoint_of(foreign, state_dicts=state_dicts))
    message = str(caught.value)
    assert "(2, 3)" in message and "\x1b" not in message
    assert "'auxiliarynet' is of pfld-polaris-auxiliary" in message
    assert all(name in message for name in refnet.networks())


def test_missing_extra_and_misshapen_tensors_are_listed() -> None:
    state = random_state("pfld-ultralight", {})
    state["surplus"] = state.pop("conv2.0.weight")
    state["fc.bias"] = np.zeros(7, np.float32)
    state["conv7.1.bias"] = state["conv7.1.bias"].astype(np.int64)
    for network in (None, "pfld-ultralight"):
        with pytest.raises(WeightsError) as caught:
            identify(checkpoint_of(state), network)
        message = str(caught.value)
        assert "1 missing: 'conv2.0.weight'" in message and "1 extra: 'surplus'" in message
        assert "1 misshapen: 'fc.bias' (7,) instead of (196,)" in message
        assert "1 not float: 'conv7.1.bias'" in message
    with pytest.raises(WeightsError, match=r"not those of tinynet.*missing.*extra"):
        identify(checkpoint_of(state), "tinynet")


def test_impossible_requests_are_refused() -> None:
    state = random_state("pfld", {})
    with pytest.raises(UnknownNetworkError):
        identify(checkpoint_of(state), "pfdl")
    with pytest.raises(OptionError, match="no option wdith"):
        identify(checkpoint_of(state), "pfld", wdith=1)
    with pytest.raises(WeightsError, match="misshapen"):
        identify(checkpoint_of(state), "pfld", landmarks=68)
    odd = random_state("pfld", {})
    odd["conv1.0.weight"] = np.zeros((19, 3, 3, 3), np.float32)
    odd["conv8.0.weight"] = np.zeros(3, np.float32)
    with pytest.raises(WeightsError, match="Read as pfld"):
        identify(checkpoint_of(odd))


# --- files that say what they are


def test_saved_files_need_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    options = {"width": 0.5, "landmarks": 17, "activation": "relu6", "bn8": "applied"}
    state = random_state("pfld-polaris", options)
    source = checkpoint_of(state)
    save(path, "pfld-polaris", options, state, source)
    checkpoint = read(path)
    graph = refnet.build("pfld-polaris", **options)
    name, told, tensors = identify(checkpoint)
    assert (name, told) == ("pfld-polaris", dict(graph.options))
    assert list(tensors) == list(graph.parameters)
    assert all(tensors[n].tobytes() == state[n].tobytes() for n in tensors)
    record = checkpoint.metadata
    assert record["refnet"] == refnet.__version__ and record["source"] == "a.file"
    assert record["source_sha256"].startswith("e3b0c44298fc1c14")  # of no bytes at all
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert refnet.load(path).graph.options == graph.options
    assert identify(checkpoint, activation="relu")[1]["activation"] == "relu"
    with pytest.raises(WeightsError, match="is of pfld-polaris, not of pfld"):
        identify(checkpoint, "pfld")
    with pytest.raises(WeightsError, match="misshapen"):
        identify(checkpoint, landmarks=98)


def test_nothing_is_saved_that_could_not_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    state = random_state("tinynet", {})
    del state["conv2.bias"]
    with pytest.raises(WeightsError, match=r"missing or misshapen.*conv2\.bias"):
        save(path, "tinynet", {}, state)
    assert not path.exists()


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("tinynet", "{"),
        ("tinynet", "3"),
        ("a network of the future", "{}"),
        ("tinynet", '{"unknown": 1}'),
        *(
            ("pfld", f'{{"{option}": {value}}}')
            for option in ("width", "landmarks", "input_size", "form")
            for value in ("null", "{}", "[[]]", "NaN", "-1", "1e999", '"\\u001b"', "[1, 2, 3]")
        ),
    ],
)
def test_a_damaged_record_is_refused_in_a_line(network: str, options: str) -> None:
    record = {"refnet": "0.1.0", "network": network, "options": options}
    with pytest.raises(WeightsError, match="its record") as caught:
        identify(checkpoint_of(random_state("tinynet", {}), metadata=record))
    assert str(caught.value).isprintable()


def test_branches_that_an_export_left_are_to_be_merged_first() -> None:
    state = {
        "conv2.rbr_skip.weight": np.ones(16, np.float32),
        "onnx::Conv_1": np.ones((16, 3, 3, 3), np.float32),
    }
    exported = dataclasses.replace(
        checkpoint_of(state), layers=(Layer("conv", "onnx::Conv_1", None),)
    )
    with pytest.raises(WeightsError, match="GhostOne is trained with: merge them before the exp"):
        identify(exported)
    with pytest.raises(WeightsError) as caught:
        identify(dataclasses.replace(exported, tensors={"onnx::Conv_1": state["onnx::Conv_1"]}))
    assert "merge them" not in str(caught.value)
