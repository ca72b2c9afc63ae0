"""`refnet completion`: every verb and option is in the script of each shell, and the shells complete them."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import refnet
from refnet.cli import VERBS, main, parser_of
from refnet.cli.completion import SHELLS, described


def script(shell: str, capsys: Any) -> str:
    assert main(["completion", shell]) == 0
    text: str = capsys.readouterr().out
    return text


@pytest.mark.parametrize("shell", SHELLS)
def test_every_verb_option_and_network_is_there(shell: str, capsys: Any) -> None:
    text = script(shell, capsys)
    verbs = described(parser_of())
    assert tuple(verb.name for verb in verbs) == tuple(VERBS)
    for verb in verbs:
        assert verb.name in text and verb.purpose
        for option in verb.options:
            for name in option.names:
                assert (name if shell != "fish" else name.lstrip("-")) in text
    assert all(name in text for name in refnet.networks())
    assert "--debug" not in text and "pixelate" in text and "onnxruntime" in text


def test_kinds_of_a_verb_share_its_options() -> None:
    (evaluate,) = (verb for verb in described(parser_of()) if verb.name == "evaluate")
    assert evaluate.words == ("landmarks", "detection")
    names = [name for option in evaluate.options for name in option.names]
    assert "--normalisation" in names and "--rule" in names and names.count("--data") == 1


CASES = {
    "refnet bl": {"blur"},
    "refnet faces --thr": {"--threshold", "--threads"},
    "refnet blur --method p": {"pixelate"},
    "refnet faces --landmarker no": {"none"},
    "refnet detect --detector lffd-h": {"lffd-head"},
    "refnet info pfld-ghost": {"pfld-ghostone"},
    "refnet evaluate la": {"landmarks"},
    "refnet completion z": {"zsh"},
}


def test_bash_completes(capsys: Any, tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    (tmp_path / "refnet.bash").write_text(script("bash", capsys))
    ask = 'source refnet.bash; COMP_WORDS=($1); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _refnet; echo "${COMPREPLY[*]}"'
    for words, expected in CASES.items():
        done = subprocess.run(
            [bash, "--norc", "-c", ask, "bash", words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert (set(done.stdout.split()), done.stderr) == (expected, "")


def test_fish_completes(capsys: Any, tmp_path: Path) -> None:
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("there is no fish")
    (tmp_path / "refnet.fish").write_text(script("fish", capsys))
    for words, expected in CASES.items():
        ask = f"source refnet.fish; complete -C '{words}'"
        done = subprocess.run(
            [fish, "--no-config", "-c", ask], cwd=tmp_path, capture_output=True, text=True
        )
        found = {line.partition("\t")[0] for line in done.stdout.splitlines()}
        assert expected <= found, done.stderr


def test_zsh_reads_the_script(capsys: Any, tmp_path: Path) -> None:
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("there is no zsh")
    (tmp_path / "_refnet").write_text(script("zsh", capsys))
    done = subprocess.run([zsh, "-n", tmp_path / "_refnet"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_shell_is_refused(capsys: Any) -> None:
    with pytest.raises(SystemExit) as left:
        main(["completion", "tcsh"])
    assert left.value.code == 2
    assert "bash, zsh, fish" in capsys.readouterr().err
