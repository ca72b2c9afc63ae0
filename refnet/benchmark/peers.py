"""Other engines, each handed the same folded graph and weights: `PEERS[name](graph, weights, x, threads)` is a run.

All compute in float32, on as many threads as asked, with the settings that their authors recommend for speed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from refnet.benchmark.ncnn_files import to_ncnn
from refnet.benchmark.tflite_file import to_tflite
from refnet.benchmark.torch_script import to_torch_script
from refnet.exchange.onnx_export import to_onnx
from refnet.graph import Graph
from refnet.ops import Array
from refnet.optional import require

Weights = Mapping[str, Array]
#: One inference: the outputs, in the order of the graph's.
Run = Callable[[], Sequence[Array]]


def _onnxruntime(graph: Graph, weights: Weights, x: Array, threads: int) -> Run:
    onnxruntime: Any = require("onnxruntime", "comparing with onnxruntime", "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    model = to_onnx(graph, weights, fold_first=False)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(list(graph.outputs), {graph.input: x})


def _openvino(graph: Graph, weights: Weights, x: Array, threads: int) -> Run:
    openvino = require("openvino", "comparing with openvino", "openvino")
    core = openvino.Core()
    model = core.read_model(to_onnx(graph, weights, fold_first=False))
    model.reshape(list(x.shape))
    # Without the hint it would compute in bfloat16 where the CPU can.
    hints = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", hints)
    request = compiled.create_infer_request()

    def run() -> Sequence[Array]:
        made = request.infer([x])
        return [made[compiled.output(name)] for name in graph.outputs]

    return run


def _opencv(graph: Graph, weights: Weights, x: Array, threads: int) -> Run:
    cv2 = require("cv2", "comparing with opencv", "opencv-python-headless")
    cv2.setNumThreads(threads)
    data = np.frombuffer(to_onnx(graph, weights, fold_first=False), np.uint8)
    net = cv2.dnn.readNetFromONNX(data)

    def run() -> Sequence[Array]:
        net.setInput(x)
        return list(net.forward(list(graph.outputs)))

    return run


@contextmanager
def _chatter_to_stderr() -> Iterator[None]:
    """What C++ code prints goes to standard error meanwhile, so that standard output stays ours."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _mnn(graph: Graph, weights: Weights, x: Array, threads: int) -> Run:
    # The converter's own module; importing MNN.tools instead would run pip behind the caller's back.
    with tempfile.TemporaryDirectory() as folder, _chatter_to_stderr():
        converter, mnn = (
            require(module, "comparing with mnn", "MNN") for module in ("_tools", "MNN")
        )
        source, target = Path(folder, "model.onnx"), Path(folder, "model.mnn")
        source.write_bytes(to_onnx(graph, weights, fold_first=False))
        files = ["--modelFile", str(source), "--MNNModel", str(target)]
        converter.mnnconvert(["mnnconvert", "-f", "ONNX", *files, "--bizCode", "refnet"])
        # Without "high" it would compute in lower precision where the CPU can.
        setting = {"backend": 0, "numThread": threads, "precision": "high"}
        manager = mnn.nn.create_runtime_manager((setting,))
        names = [graph.input], list(graph.outputs)
        net = mnn.nn.load_module_from_file(str(target), *names, runtime_manager=manager)
    planar = mnn.expr.const(x, list(x.shape), mnn.expr.NCHW)
    source_value = mnn.expr.convert(planar, mnn.expr.NC4HW4)

    def run() -> Sequence[Array]:
        made = net.forward([source_value])
        return [np.array(mnn.expr.convert(y, mnn.expr.NCHW).read()) for y in made]

    return run


def _ncnn(graph: Graph, weights: Weights, x: Array, threads: int) -> Run:
    ncnn = require("ncnn", "comparing with ncnn", "ncnn")
    net = ncnn.Net()
    net.opt.num_threads, net.opt.use_vulkan_compute = threads, False
    for lower in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{lower}", False)
    param, data = to_ncnn(graph, weights)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "net.param").write_text(param)
        Path(folder, "net.bin").write_bytes(data)
        net.load_param(str(Path(folder, "net.param")))
        net.load_model(str(Path(folder, "net.bin")))
    # Copies, because its layers that work in place crash on memory that is not its own.
    images = [ncnn.Mat(image).clone() for image in x]

    def run() -> Sequence[Array]:
        made: list[list[Array]] = []
        for image in images:  # it knows no batches
            extractor = net.create_extractor()
            extractor.input(graph.input, image)
            made.append([np.array(extractor.extract(name)[1]) for name in graph.outputs])
        if len(made) == 1:
            return [y[None] for y in made[0]]
        return [np.stack(ys) for ys in zip(*made, strict=True)]

    return run


def _litert(graph: Graph, weights: Weights, x: Array, threads: int) -> Run:
    purpose, package = "comparing with litert", "ai-edge-litert"
    module = require("ai_edge_litert.interpreter", purpose, package)
    content = to_tflite(graph, weights, len(x))
    interpreter = module.Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    targets = [details["index"] for details in interpreter.get_output_details()]
    pixels = np.ascontiguousarray(x.transpose(0, 2, 3, 1))

    def run() -> Sequence[Array]:
        interpreter.set_tensor(source, pixels)
        interpreter.invoke()
        made = [interpreter.get_tensor(index) for index in targets]
        return [y.transpose(0, 3, 1, 2) if y.ndim == 4 else y for y in made]

    return run


def _torch(graph: Graph, weights: Weights, x: Array, threads: int) -> Run:
    torch: Any = require("torch", "comparing with torch", "torch")
    torch.set_num_threads(threads)
    module, source = to_torch_script(graph, weights, x), torch.from_numpy(x)

    def run() -> Sequence[Array]:
        with torch.inference_mode():
            return [y.numpy() for y in module(source)]

    return run


PEERS: dict[str, Callable[..., Run]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "mnn": _mnn,
    "opencv": _opencv,
    "ncnn": _ncnn,
    "litert": _litert,
    "torch": _torch,
}
