"""The page holds what the run did, and needs nothing beside it."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

from PIL import Image

from triptych.backends.data import Bad
from triptych.backends.report import (
    BadFile,
    Metrics,
    MetricsFile,
    Page,
    Prediction,
    StageRow,
    curves,
    write_report,
)


def line(stage, step, loss=1.0, **losses):
    return Metrics(stage, step, loss, losses or {"lm": loss}, 1e-3, 0.5, step * 4, step * 40, step)


LINES = [
    *(line("look", step, 2 / step, words=2 / step) for step in range(1, 31)),
    *(line("all", step, 1 / step) for step in range(1, 11)),
]


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "png")
    return buffer.getvalue()


def test_metrics_grow_and_are_cut_where_a_run_resumes(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for one in LINES:
        file.append(one)
    assert file.read() == LINES
    file.cut("all", 4)
    assert file.read() == LINES[:34]
    file.cut("all", 0)
    assert file.read() == LINES[:30]
    file.cut("last", 0)
    assert file.read() == LINES[:30]


def test_a_torn_last_line_is_no_line(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append(LINES[0])
    with (tmp_path / "metrics.jsonl").open("a") as handle:
        handle.write('{"stage": "lo')
    assert file.read() == LINES[:1]


def test_names_a_bad_sample_once(tmp_path):
    one, two = Bad("a.json", 1, "x"), Bad("a.json", 2, "y")
    file = BadFile(tmp_path / "bad.jsonl")
    file.add([one, one])
    file.add([one, two])
    again = BadFile(tmp_path / "bad.jsonl")
    again.add([two])
    assert again.read() == [one, two]


def test_draws_the_curves():
    picture = Image.open(io.BytesIO(curves(LINES)))
    assert picture.width > 500
    assert picture.height > 200


def page(**more):
    stages = [
        StageRow("look", {"vit": 1200}, {"lm": 3400}, finished=True),
        StageRow("all", {"vit": 1200, "lm": 3400}, {}),
        StageRow("last", {"lm": 3400}, {"vit": 1200}),
    ]
    return Page("tiny", {"precision": "f32", "seed": "0"}, stages, LINES, **more)


class Tags(HTMLParser):
    void = frozenset({"meta", "img", "link"})

    def __init__(self):
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag == "li" and self.open[-1] != "li":
            return
        assert self.open.pop() == tag


def test_the_page_is_whole_and_stands_alone(tmp_path):
    path = tmp_path / "report.html"
    said = [Prediction("What?", "a frog", "a frog", png())]
    write_report(path, page(predictions=said), png())
    text = path.read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert "</html>" in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert list(tmp_path.iterdir()) == [path]


def test_the_page_says_what_was_trained_and_what_was_not_begun(tmp_path):
    write_report(tmp_path / "report.html", page(), png())
    text = re.sub(r"\s+", " ", (tmp_path / "report.html").read_text())
    assert "1,200 trained" in text
    assert "3,400 frozen" in text
    assert "all (unfinished)" in text
    assert "not begun" in text


def test_the_page_escapes_what_the_data_says(tmp_path):
    bad = [Bad("<b>.json", 3, "turn 1 has <script>")]
    said = [Prediction("<image>", "a & b", "<i>")]
    write_report(
        tmp_path / "report.html", page(bad=bad, predictions=said, predicted_from="x"), png()
    )
    text = (tmp_path / "report.html").read_text()
    assert "turn 1 has &lt;script&gt;" in text
    assert "<script>" not in text
    assert "expected: a &amp; b" in text


def test_the_page_names_a_hundred_bad_samples_and_counts_the_rest(tmp_path):
    bad = [Bad("data.json", index, "no picture") for index in range(130)]
    write_report(tmp_path / "report.html", page(bad=bad), png())
    text = (tmp_path / "report.html").read_text()
    assert text.count("no picture") == 100
    assert "and 30 more" in text
