"""Names that hold HTML, Markdown or Python stay names in whatever is made from them: pages, notes, READMEs, code.

A study whose every word was written by somebody else is told beside the same study with plain words. The pages must
have the same elements with the same attributes, and the code the same syntax: only text may differ.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import sqlite3
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import toy
from exported import architecture_of, content_of
from markdown_it import MarkdownIt

from nas import dashboard
from nas.architecture import Architecture, Placement
from nas.command import Commands
from nas.dashboard.content import content
from nas.dashboard.server import HOST, listen
from nas.evaluation import Evaluation, EvaluationError
from nas.export import page, standalone
from nas.limits import BeyondLimitsError, Limits
from nas.run import write_files
from nas.rungs import StoppedError
from nas.study import Study, run

PLAIN = "word"
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "\"><svg onload=alert(1)>' onmouseover='alert(1)",
    "</title></style><iframe src=//evil.example>",
    "![x](https://evil.example/x.png) [x](javascript:alert(1)) <https://evil.example> `</code>`",
    "]]><!--  | # x\n\n- x\n\n```\n<b>\n",
    '"""\nimport os\nos.system("touch executed")\n"""',
    "'); __import__('os').system('touch executed'); ('\\",
    "{0.__class__} %s $(touch executed) `touch executed` \\u003cimg\\u003e &lt;img&gt; \u2028\u202e\x00\x1b[2J",
)
WORDS = [
    pytest.param(" ".join(HOSTILE), id="all"),  # to tell a study takes seconds: at once here, one by one in slow tests
    *(pytest.param(word, id=f"{number}", marks=pytest.mark.slow) for number, word in enumerate(HOSTILE)),
]
LIMITS = Limits(slowdown=0.115)
SPACE = toy.space(blocks=("se", "eca", "cbam", "simam"), stages=(1, 2, 3))


class Elements(HTMLParser):
    """Collects elements, each with the names of its attributes and the values that a browser would follow."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, ...]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        followed = [f"{name}={value}" for name, value in attributes if name in ("href", "src", "id", "class", "style")]
        self.found.append((tag, *(name for name, _ in attributes), *followed))

    def handle_comment(self, data: str) -> None:
        self.found.append(("comment",))

    def handle_decl(self, decl: str) -> None:
        self.found.append(("declaration",))


def evaluate(architecture: Architecture, word: str) -> Evaluation:
    """Evaluate as the toy does, on a device of some name; some fail, some are stopped or beyond the limits."""
    found = toy.evaluate(architecture)
    found = dataclasses.replace(
        found, latency=dataclasses.replace(found.latency, device=word), versions={word: word, "git": word}
    )
    if architecture.placements and max(LIMITS.excess(found).values()) > 0:
        raise BeyondLimitsError(LIMITS, found)
    blocks = {placement.block for placement in architecture.placements}
    if "simam" in blocks:
        raise EvaluationError(f"failed: {word}")
    if "eca" in blocks:
        raise StoppedError(f"stopped: {word}", [0.12], found)
    return found


def made(folder: Path, word: str) -> Study:
    """Return a study all of whose words are this one."""
    words = dict.fromkeys(("data", "data_hash", "device", "software", "weights", "latency_device"), word)
    protocol = dataclasses.replace(toy.PROTOCOL, **words, latency_software=word, model_kwargs={word: word})
    study = Study.create(
        "toy",
        toy.url(folder),
        space=SPACE,
        protocol=protocol,
        limits=LIMITS,
        inputs={"data": word, "data_dir": word, "checkpoint": word, "command": f"python run_search.py {word}"},
    )
    run(study, lambda architecture: evaluate(architecture, word), space=SPACE, budget=9, sampler="random", seed=1)
    study.note_rungs(word)
    study.close()
    with sqlite3.connect(folder / "studies.db") as connection:  # what only somebody else would write there
        query = "SELECT trial_user_attribute_id, value_json FROM trial_user_attributes WHERE key = 'control'"
        for number, value in connection.execute(query).fetchall():
            if json.loads(value) != "bare":
                connection.execute(
                    "UPDATE trial_user_attributes SET value_json = ? WHERE trial_user_attribute_id = ?",
                    (json.dumps(f"{word} everywhere"), number),
                )
    connection.close()
    for name in ("verify.md", "explain-1.md", "retime-x.md"):
        (folder / "toy").mkdir(exist_ok=True)
        (folder / "toy" / name).write_text(f"# Can it be trusted?\n\n| a | b |\n|---|---|\n| x | {word!r} |\n")
    return Study.open("toy", toy.url(folder))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what is made of a study by its word: pages, notes, and figures as JSON."""

    @cache
    def tell(word: str) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("studies")
        study = made(folder, word)
        write_files(study, folder / "toy")
        shown = content(study, folder / "toy", commands=Commands(flags="--study toy", begun=word))
        study.close()
        pages = {name: (folder / "toy" / name).read_text() for name in ("report.html", "pareto.html")}
        notes = {f"note {number}": text for number, text in enumerate((shown.note, *shown.trial_notes.values()))}
        return pages | notes | {f"plot {name}": text for name, text in shown.plots.items()}

    return tell


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("name", ["report.html", "pareto.html"])
def test_pages_have_no_element_from_a_name(told: Any, name: str, word: str) -> None:
    def elements(word: str) -> list[tuple[str, ...]]:
        # Emphasis is left to the Markdown of other verbs.
        return [each for each in Elements(told(word)[name]).found if each[0] not in ("code", "em", "strong")]

    found = elements(word)
    assert found == elements(PLAIN)
    assert not [each for each in found if each[0] in ("img", "iframe", "svg", "comment")]
    assert not [part for each in found for part in each if part.startswith("on") or "javascript:" in part]


@pytest.mark.parametrize("word", WORDS)
def test_what_scripts_put_into_a_page_has_no_element_from_a_name(told: Any, word: str) -> None:
    """The panels beneath the figures show HTML that stands in the page as JSON."""

    def placements(text: str) -> list[Any]:
        (found,) = [part for part in text.split("<script") if 'id="placements">' in part]
        data = json.loads(found.partition(">")[2].partition("</script>")[0])
        return [Elements(each).found for each in data["trials"].values()]

    assert placements(told(word)["report.html"]) == placements(told(PLAIN)["report.html"])


@pytest.mark.parametrize("word", WORDS)
def test_texts_of_plots_have_no_element_from_a_name(told: Any, word: str) -> None:
    """plotly shows some HTML in hover texts, names and labels."""

    def texts(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for each in value.values() for text in texts(each)]
        if isinstance(value, list):
            return [text for each in value for text in texts(each)]
        return [value] if isinstance(value, str) else []

    plain, hostile = told(PLAIN), told(word)
    names = [name for name in plain if name.startswith("plot ")]
    assert len(names) > 3
    for name in names:
        pairs = zip(texts(json.loads(hostile[name])), texts(json.loads(plain[name])), strict=True)
        for one, other in pairs:
            assert Elements(one).found == Elements(other).found


@pytest.mark.parametrize("word", WORDS)
def test_notes_have_no_element_from_a_name(told: Any, word: str) -> None:
    """Notes are Markdown; here a reader that lets HTML through, as the dashboard's might one day."""
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    plain, hostile = told(PLAIN), told(word)
    names = [name for name in plain if name.startswith("note ")]
    assert len(names) > 5
    for name in names:
        assert Elements(reader.render(hostile[name])).found == Elements(reader.render(plain[name])).found, name


def test_findings_of_other_verbs_hold_no_links_and_no_images() -> None:
    from nas.report.report_page import markdown

    text = f"# {HOSTILE[4]}\n\n[a]: https://evil.example\n\n[a] ![a] <b>x</b>\n\n| a |\n|---|\n| {HOSTILE[0]} |\n"
    found = {each[0] for each in Elements(markdown(text)).found}
    assert found <= {"h2", "p", "table", "thead", "tbody", "tr", "th", "td", "code"}


# What an export writes.


def hostile_content(word: str) -> dict[str, Any]:
    found = content_of(
        "test_resnet",
        Placement(stage=2, block="se"),
        evidence={
            "study": word,
            "trial": word,
            "latency": {"ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1, "device": word},
        },
    )
    found["protocol"] |= dict.fromkeys(("data", "device", "software", "weights"), word)
    found["space"] = {word: word}
    return found


def skeleton(text: str) -> str:
    """Return the syntax of some code, without its literal texts."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)


@pytest.mark.parametrize("word", HOSTILE, ids=range(len(HOSTILE)))
def test_code_has_nothing_but_text_from_a_name(word: str) -> None:
    plain, hostile = hostile_content(PLAIN), hostile_content(word)
    code = standalone.source(architecture_of(hostile), hostile)
    assert skeleton(code) == skeleton(standalone.source(architecture_of(plain), plain))
    assert "\u202e" not in code


@pytest.mark.parametrize("word", [*HOSTILE, "\U0001f600 é"], ids=range(len(HOSTILE) + 1))
def test_arguments_of_a_model_are_literals(word: str) -> None:
    """They go into the code as they are: whatever they say, Python reads back the same values."""
    value = {"name": word, "some": [word, 1, None, True], word: 0.5}
    text = standalone._literal(value)
    assert ast.literal_eval(text) == value
    assert text.isascii()


FIGURES: dict[str, Any] = {
    "images": "images",
    "logits": 0.0,
    "logits_of_weights": None,
    "onnx": "not written",
    "reference": 0.0,
    "limits": {"logits": 1e-6, "onnx": 1e-6, "reference": 1e-6},
    "latency": None,
    "device": "cpu",
    "parameters": 1,
    "tensors": 1,
    "macs": 1,
    "least_effect_of_a_block": None,
    "versions": {"torch": "2"},
}


@pytest.mark.parametrize("word", HOSTILE, ids=range(len(HOSTILE)))
def test_a_readme_has_no_element_from_a_name(word: str) -> None:
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")

    def elements(word: str) -> list[tuple[str, ...]]:
        content = hostile_content(word)
        return Elements(reader.render(page.page(architecture_of(content), content, FIGURES, ()))).found

    assert elements(word) == elements(PLAIN)


# Who may ask the dashboard.


def test_the_server_listens_on_this_machine_alone() -> None:
    assert HOST == "127.0.0.1"
    with listen(0) as server:
        assert server.socket.getsockname()[0] == "127.0.0.1"


def test_no_flag_makes_it_listen_elsewhere() -> None:
    from nas import cli

    with pytest.raises(SystemExit):
        cli.parser().parse_args(["dashboard", "--host", "0.0.0.0"])


def test_the_dashboard_shows_a_hostile_study(tmp_path: Path) -> None:
    from wsgiref.util import setup_testing_defaults

    study = made(tmp_path, HOSTILE[0])
    app = dashboard.app(study, tmp_path, flags=lambda name: f"--study {name}")
    environ: dict[str, Any] = {"PATH_INFO": "/api/studies/1", "HTTP_HOST": "127.0.0.1:8080"}
    setup_testing_defaults(environ)
    said: list[str] = []
    body = b"".join(app(environ, lambda status, _headers, *_: said.append(status)))
    assert said[0].startswith("200")
    assert "\\\\<img src=x" in json.dumps(json.loads(body)["note"])
    study.close()
