"""Options of networks as nobody means them: each is one sentence, and what is built can be described."""

import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import refnet
from refnet.cli import main
from refnet.networks import network_options

OPTIONS = [(name, option) for name in refnet.networks() for option in network_options(name)]

ODD: list[Any] = [
    *(0, -3, 1, 10**9, 2**31, 2**63, 10**30, 0.0, -0.0, -1.0, 1e-300, 1e300, 5e-324, 0.03, 4.0),
    *(math.nan, math.inf, -math.inf, True, None, "", "x", "1e-300", b"x", 1j, {}, [], object),
    *(
        (0, 5),
        (64,),
        (64, 64, 64),
        (10**9, 10**9),
        (10**30, 64),
        (64, -64),
        (64, 64.0),
        (True, True),
    ),
]
NUMBERS = st.integers() | st.floats() | st.floats(0, 4) | st.integers(1, 300)
VALUES = st.sampled_from(ODD) | NUMBERS | st.tuples(NUMBERS, NUMBERS) | st.text(max_size=5)


def built(name: str, options: dict[str, Any]) -> refnet.Graph | None:
    """The network; None where it is refused, in one line that names it."""
    try:
        graph = refnet.build(name, **options)
    except refnet.OptionError as error:
        said = str(error)
        assert said.startswith(name) and "\n" not in said and len(said) < 400, said
        return None
    sides = [s for shape in (*graph.shapes().values(), *graph.state_dict.values()) for s in shape]
    assert all(isinstance(side, int) and side > 0 for side in sides), (name, options)
    assert graph.summary() and graph.parameter_count > 0
    json.dumps(dict(graph.options))
    return graph


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_an_odd_value_is_refused_in_a_line_or_builds_a_whole_network(
    name: str, option: str
) -> None:
    for value in ODD:
        built(name, {option: value})
    assert built(name, {option: network_options(name)[option]}) is not None


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_drawn_values(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(refnet.networks()))
    chosen = data.draw(st.sets(st.sampled_from(sorted(network_options(name)))))
    built(name, {option: data.draw(VALUES) for option in sorted(chosen)})


@pytest.mark.parametrize(
    "words",
    [
        "pfld:width=1e-300",
        "pfld-msfc:width=1e300",
        "lffd-face-v2:width=nan",
        "lffd-light:width=inf",
        "tinynet:input_size=0",
        "lffd-head:input_size=-3",
        "pfld:input_size=1000000000",
        "basketnet:input_size=99999999999x64",
        "basketnet:input_size=1",
        "pfld-ghostone:landmarks=1000000000000",
        "basketnet:classes=1e9",
    ],
)
@pytest.mark.parametrize("verb", ["info", "rf", "export"])
def test_on_the_command_line(verb: str, words: str, capsys: Any, tmp_path: Any) -> None:
    more = [str(tmp_path / "x.onnx")] if verb == "export" else []
    assert main([verb, words, *more]) == 2
    out, said = capsys.readouterr()
    assert out == "" and said.count("\n") == 1 and words.partition(":")[0] in said
    assert not any(tmp_path.iterdir())
