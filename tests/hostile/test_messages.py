"""What the command line says of mistakes: in words of its flags, before anything heavy is imported, and harmlessly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nas import cli

ROOT = Path(__file__).parents[2]
CHEAP = (
    (["--precision", "int4"], "--precision must be one of float32, bfloat16, but got 'int4'"),
    (["--optimizer", "lion"], "--optimizer must be one of sgd, adamw, but got 'lion'"),
    (["--batch-size", "1"], "--batch-size must be at least 2, as batch normalisation needs, but got 1"),
    (["--epochs", "0"], "--epochs must be at least 1, but got 0"),
    (["--average-epochs", "4", "--epochs", "3"], "--average-epochs must be 1 to epochs, 3, but got 4"),
    (["--average-epochs", "0"], "--average-epochs must be 1 to epochs, 1, but got 0"),
    (["--latency-batch", "0"], "--latency-batch must be at least 1, but got 0"),
    (["--augmentation", "all"], "--augmentation must be one of none, shift, shift+flip, shift+flip+cutout, but got"),
    (["--workers-per-device", "0"], "--workers-per-device must be at least 1, but got 0"),
    (["--space", "no.json"], "no space file no.json; give a file, or one of: channel_only, default"),
    (["--budget", "9" * 30], "argument --budget: an integer must be below 2**63, but got '999"),
    (["verify", "--top", "0"], "--top must be at least 1, but got 0"),
    (["train", "x.json", "--lr", "0"], "--lr must be positive and finite, but got 0.0"),
    (["train", "x.json", "--epochs", "3", "--warmup", "3"], "--warmup must be below the 3 epochs, but got 3"),
    (["train", "x.json", "--epochs", "1", "--warmup", "5"], "--warmup must be below the 1 epoch, but got 5"),
    (["train", "x.json", "--block-lr-factor", "nan"], "--block-lr-factor must be positive and finite, but got nan"),
)


@pytest.mark.parametrize(("words", "message"), CHEAP, ids=[" ".join(words)[:60] for words, _ in CHEAP])
def test_mistakes_are_told_in_words_of_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = cli.main(words)
    except SystemExit as ended:
        status = int(ended.code or 0)
    said = capsys.readouterr().err
    assert status == 2
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_cheap_mistakes_do_not_wait_for_torch(tmp_path: Path) -> None:
    """All at once, in one process: torch takes seconds to import."""
    searches = [words for words, _ in CHEAP if words[0].startswith("--") and words[0] != "--budget"]
    check = f"import sys; from nas.cli import main; print([main(words) for words in {searches!r}])"
    check += "; print([name for name in ('torch', 'timm') if name in sys.modules])"
    ended = subprocess.run(
        [sys.executable, "-c", check],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.splitlines() == [str([2] * len(searches)), "[]"]


@pytest.mark.parametrize(
    "words",
    [
        ["--study", "a\nb\x1b[2J\x07"],
        ["--space", "\u202ex"],
        ["--frob\x1b]0;title\x07"],
        ["export", "--study", "\x9b31m"],
        ["backbones", "\ud800"],
    ],
    ids=range(5),
)
def test_no_message_moves_the_terminals_cursor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = cli.main(words)
    except SystemExit as ended:
        status = int(ended.code or 0)
    said = capsys.readouterr().err
    assert status == 2
    assert said.rstrip("\n").isprintable()


def test_a_message_of_any_length_is_cut_in_its_middle() -> None:
    text = cli._one_line("begins " + "x" * 100_000 + " ends")
    assert len(text) < cli.MOST_LETTERS + 10
    assert text.startswith("begins x")
    assert text.endswith("x ends")
