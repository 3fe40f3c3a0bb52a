"""The page: whole, self-contained, safe, and only what the bundle has."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from scalerec.bundle import Bundle, Step, read_bundle
from scalerec.errors import BundleError
from scalerec.report import render_page, write_report
from scalerec.report.svg import INK, new_chart, plain_text, to_svg

MakeBundle = Callable[..., Bundle]
Attachments = dict[str, dict[str, Any]]

VOID = {"meta", "link", "br", "img", "hr", "input"}
SECTION = {
    "evaluation-test.json": "metrics",
    "baselines.json": "baselines",
    "curves.json": "curves",
    "study.json": "search",
    "calibration.json": "calibration",
    "recommendations.json": "examples",
}


class Page(HTMLParser):
    """Reads a page: its text, elements, ids and links; unbalanced elements are an error."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self._open: list[str] = []
        self.feed(page.decode("utf-8"))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "srcset", "data", "action", "xlink:href"):
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _attach(bundle: Bundle, attachments: Attachments) -> None:
    for name, value in attachments.items():
        bundle.attach(name, value, overwrite=True)


def test_all_of_it_is_there(make_bundle: MakeBundle, attachments: Attachments) -> None:
    bundle = make_bundle()
    _attach(bundle, attachments)
    page = Page(render_page(bundle))
    for section in (*SECTION.values(), "model", "lineage", "notes", "files"):
        assert section in page.ids
    for words in (
        "DeepFM on films",
        "Predicts liked and watched , with 201 parameters over 5 fields.",
        f"Bundle {bundle.digest[:12]} Made 2 November 2026, 09:05 UTC",
        "AUC 0.7654 How often a positive row is scored above one that is not.",
        "Best baseline, popularity: 0.0625",
        "Test part: 2,000 rows, 3 undefined groups.",
        "such as one person's rows, averaged over the groups. undefined",
        "User 42 Chose before Alien Heat Would see next 1 Fargo 0.875",
        "Measured on: test.",
        "Best: 0.7000 at epoch 0.6000.",
        "net.tower 100 49.8% table user_id 80 39.8% table time.hour 20 10.0% bias 1 0.5%",
        "user_id categorical user user_id 20,000",
        "time.hour timestamp context time.hour 26",
        "history history, at most 50 user item_id 30",
        "poster vector of 8 item",
        "prepare 2 November 2026, 09:00 UTC · took 3 min 20 s",
        "dense.lr 0.001 metric none hidden 64, 32 Privacy spent epsilon 2.0",
        "Cite Somebody, Films, 2015 A plain note.",
        f"The bundle is {bundle.digest} .",
        *bundle.files,
        *attachments,
    ):
        assert words in page.text


@pytest.mark.parametrize("name", SECTION)
def test_what_is_missing_is_left_out(
    make_bundle: MakeBundle, attachments: Attachments, name: str
) -> None:
    del attachments[name]
    bundle = make_bundle()
    _attach(bundle, attachments)
    page = Page(render_page(bundle))
    assert set(SECTION.values()) & set(page.ids) == set(SECTION.values()) - {SECTION[name]}
    assert f"#{SECTION[name]}" not in page.links


def test_a_bare_bundle_of_another_kind(make_bundle: MakeBundle) -> None:
    bundle = make_bundle(
        schema={"features": {"user": "id"}},
        layout={"tables": 3, "ids": "none"},
        spec={"kind": "image", "settings": None},
        lineage=(),
        tensors={},
    )
    page = Page(render_page(bundle))
    assert page.text.count("image") == 2
    assert {"model", "files"} & set(page.ids) == {"model", "files"}
    assert not {*SECTION.values(), "lineage", "notes"} & set(page.ids)
    assert page.tags["svg"] == 0


def test_the_page_needs_nothing_else(make_bundle: MakeBundle, attachments: Attachments) -> None:
    bundle = make_bundle()
    _attach(bundle, attachments)
    raw = render_page(bundle)
    page = Page(raw)
    assert page.tags["svg"] == 6
    assert page.tags["script"] + page.tags["link"] + page.tags["img"] + page.tags["iframe"] == 0
    assert page.handlers == []
    assert [link for link in page.links if not link.startswith("#")] == []
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []
    for fragment in (b"http:", b"https:", b"@import", b"url(http", b"//www"):
        assert fragment not in raw
    # The clip paths of the charts are the only references in styles.
    assert {m[:2] for m in re.findall(rb"url\((..)", raw)} <= {b"#c", b"#b", b"#s"}
    assert not re.search(rb"#01020[0-9]", raw)  # every placeholder became a colour of the page


def test_text_from_data_is_escaped(make_bundle: MakeBundle, attachments: Attachments) -> None:
    bad = "<script>alert(1)</script>\"'&$x_1$ \x00\x1b"
    attachments["recommendations.json"]["users"][0].update(user=bad, history=[bad])
    attachments["recommendations.json"]["users"][0]["items"][0]["title"] = bad
    attachments["baselines.json"]["rows"][0]["name"] = bad
    attachments["evaluation-test.json"]["metrics"][f"{bad}@10"] = 0.5
    attachments["evaluation-test.json"]["split"] = bad
    attachments["calibration.json"]["split"] = bad
    attachments["curves.json"]["steps"][0][f"valid/{bad}"] = 0.5
    bundle = make_bundle(
        schema={"tasks": [{"name": bad}], "features": []},
        spec={"kind": bad, "model": bad, bad: bad},
        layout={"ids": [{"name": bad, "role": bad, "table": bad}], "tables": {bad: 3}},
        lineage=(Step(verb="train", settings={bad: bad, "dataset": bad, "notes": [bad]}),),
        tensors={bad: torch.zeros(2)},
    )
    _attach(bundle, attachments)
    raw = render_page(bundle)
    page = Page(raw)
    assert b"<script" not in raw
    assert page.tags["script"] == 0
    assert page.handlers == []
    assert page.text.count("<script>alert(1)</script>") > 10
    assert "<script>alert(1)</scr…" in page.text  # a baseline's name in a chart


def test_letters_that_utf8_or_a_font_lacks(
    make_bundle: MakeBundle, attachments: Attachments
) -> None:
    attachments["recommendations.json"]["users"][0]["history"] = ["half \ud800 pair", "七人の侍"]
    attachments["baselines.json"]["rows"][0]["name"] = "人気 \ud800"
    bundle = make_bundle()
    _attach(bundle, attachments)
    text = Page(render_page(bundle)).text
    assert "half ? pair 七人の侍" in text
    assert "人気" in text


def test_writing_twice_gives_the_same_page(
    make_bundle: MakeBundle, attachments: Attachments
) -> None:
    bundle = make_bundle()
    _attach(bundle, attachments)
    path = write_report(bundle.path)
    assert path == bundle.path / "attachments" / "report.html"
    first = path.read_bytes()
    assert write_report(str(bundle.path)).read_bytes() == first
    again = read_bundle(bundle.path)
    assert again.digest == bundle.digest
    assert again.attachment("report.html") == first
    assert b"report.html" not in first


def test_a_changed_bundle_gets_no_report(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    bundle.attach("curves.json", {"steps": []})
    (bundle.path / "attachments" / "curves.json").write_text("{}")
    with pytest.raises(BundleError, match=r"curves\.json: was changed"):
        write_report(bundle.path)
    assert "report.html" not in bundle.attachments()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("curves.json", {"steps": 3}, "curves.json: steps must be a list; got 3"),
        ("curves.json", {"steps": [3]}, "curves.json: steps[0] must be a table; got 3"),
        ("curves.json", {"steps": [{}]}, "curves.json: steps[0].step must be a number; got None"),
        (
            "curves.json",
            {"steps": [{"step": 1, "lr": "high"}]},
            "curves.json: steps[0].lr must be a number or null; got 'high'",
        ),
        (
            "evaluation-test.json",
            {"metrics": [0.5]},
            "evaluation-test.json: metrics must be a table; got [0.5]",
        ),
        (
            "evaluation-test.json",
            {"metrics": {"auc": True}},
            "evaluation-test.json: metrics.auc must be a number or null; got True",
        ),
        (
            "baselines.json",
            {"rows": [{"name": []}]},
            "baselines.json: rows[0]: name must be text; got []",
        ),
        (
            "calibration.json",
            {"bins": [{"count": "many"}]},
            "calibration.json: bins[0]: count must be a number or null; got 'many'",
        ),
        (
            "recommendations.json",
            {"users": [{"user": 1, "history": "Alien"}]},
            "recommendations.json: users[0].history must be a list; got 'Alien'",
        ),
        (
            "recommendations.json",
            {"users": [{"user": 1, "items": [7]}]},
            "recommendations.json: users[0]: items[0] must be a table; got 7",
        ),
    ],
)
def test_a_wrong_form_is_said(
    make_bundle: MakeBundle, name: str, value: dict[str, Any], message: str
) -> None:
    bundle = make_bundle()
    bundle.attach(name, value)
    with pytest.raises(BundleError) as caught:
        render_page(bundle)
    assert str(caught.value) == message


def test_odd_but_right_numbers_are_drawn(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    bundle.attach("curves.json", {"steps": [{"step": 0, "train/loss": 0.0, "valid/auc": None}]})
    rows = [{"name": name, "metrics": {"auc": 0.0, "rmse": -1.0}} for name in ("a", "b")]
    bundle.attach("baselines.json", {"rows": rows})
    empty = {"low": 0.0, "high": 0.5, "mean_score": 0.0, "share_positive": 0.0, "count": 5}
    bundle.attach("calibration.json", {"bins": [empty]})
    page = Page(render_page(bundle))
    assert page.tags["svg"] == 1 + 2 + 2
    assert "Loss, training rows" in page.text


def test_a_long_run_makes_no_heavy_page(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    before = len(render_page(bundle))
    # Half of it comes twice, as after a resumed run.
    steps = [{"step": i % 20_000, "train/loss": 1 / (1 + i % 20_000)} for i in range(30_000)]
    bundle.attach("curves.json", {"steps": steps})
    assert len(render_page(bundle)) - before < 40_000


def test_charts_are_labelled_and_apart() -> None:
    charts = []
    for name in ("one", "two"):
        chart, axes = new_chart()
        axes.plot([0, 1], [0, 1], color=INK)
        charts.append(to_svg(chart, name, 'a "quoted" <label>'))
    first, second = charts
    assert 'aria-label="a &quot;quoted&quot; &lt;label&gt;"' in first
    assert "stroke: var(--ink)" in first
    assert set(re.findall(r' id="([^"]*)"', first)).isdisjoint(re.findall(r' id="([^"]*)"', second))


def test_text_for_charts() -> None:
    assert plain_text("short") == "short"
    assert plain_text("a\nb\x00c") == "abc"
    assert plain_text("x" * 30, limit=5) == "xxxx…"


def test_nothing_heavy_or_global_is_imported(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    bundle.attach("curves.json", {"steps": [{"step": 1, "train/loss": 0.5}]})
    code = (
        "import sys\n"
        "from scalerec.report import write_report\n"
        "assert not {'matplotlib', 'jinja2'} & set(sys.modules)\n"
        "write_report(sys.argv[1])\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    source = str(Path(__file__).parents[2] / "src")
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(bundle.path)],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
