"""Findings for programs: JSON that says all, and SARIF that follows its specification."""

from __future__ import annotations

import json
import re
from urllib.parse import urlsplit

import pytest

from triptych.dsl.codes import CODES
from triptych.dsl.diagnostics import Diagnostic, Edit, Fix, Label, RecipeError
from triptych.dsl.load import load_text
from triptych.dsl.reports import sarif, to_json
from triptych.dsl.source import Source

WRONG = """\
recipe case extends qwen2_vl_2b {
  amend lm { widht = 1536 context = 32768 tied = 一 }
  stage sft { train = [lm] }
}
"""


def found(text=WRONG, **options):
    with pytest.raises(RecipeError) as caught:
        load_text(text, "my recipes/case.vlm", **options)
    return caught.value.diagnostics


def test_a_finding_as_data():
    (one,) = found(WRONG.replace("context = 32768 tied = 一", "").replace("stage", "amend stage"))
    assert to_json(one) == {
        "code": "N209",
        "severity": "error",
        "title": "`lm : Decoder` has no setting `widht` to amend",
        "reason": "",
        "labels": [
            {
                "file": "my recipes/case.vlm",
                "line": 2,
                "column": 14,
                "end_line": 2,
                "end_column": 19,
                "text": "",
                "primary": True,
            },
            to_json(one)["labels"][1],
        ],
        "fix": {
            "text": "write `width`",
            "safe": True,
            "edits": [
                {
                    "file": "my recipes/case.vlm",
                    "line": 2,
                    "column": 14,
                    "end_line": 2,
                    "end_column": 19,
                    "text": "width",
                }
            ],
        },
    }
    assert to_json(one)["labels"][1]["file"] == "recipes/qwen2_vl_7b.vlm"
    json.dumps(to_json(one))


def test_a_piece_over_several_lines():
    source = Source("a.vlm", "one\ntwo\nthree")
    label = to_json(Diagnostic("E101", "t", (Label(source.span(2, 9)),)))["labels"][0]
    assert (label["line"], label["column"]) == (1, 3)
    assert (label["end_line"], label["end_column"]) == (3, 2)


# SARIF: what its specification (OASIS, 2.1.0) demands of the objects that a log holds -------------


def is_text(value):
    return isinstance(value, str) and value != ""


def check_log(log):
    assert log["version"] == "2.1.0"  # 3.13.2
    assert is_text(log["$schema"])
    assert isinstance(log["runs"], list)  # 3.13.4
    for run in log["runs"]:
        check_run(run)


def check_run(run):
    driver = run["tool"]["driver"]  # 3.14.6, 3.18.2
    assert is_text(driver["name"])  # 3.19.8
    assert run["columnKind"] in ("utf16CodeUnits", "unicodeCodePoints")  # 3.14.17
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(set(ids)) == len(ids)
    for rule in driver["rules"]:
        check_rule(rule)
    for result in run["results"]:
        check_result(result, ids)


def check_rule(rule):
    assert is_text(rule["id"])  # 3.49.3
    for name in ("shortDescription", "fullDescription", "help"):
        if name in rule:
            assert is_text(rule[name]["text"])  # 3.12.3
    if "helpUri" in rule:
        assert urlsplit(rule["helpUri"]).scheme  # 3.49.12: an absolute URI


def check_result(result, ids):
    assert is_text(result["message"]["text"])  # 3.27.11
    assert result["level"] in ("none", "note", "warning", "error")  # 3.27.10
    assert ids[result["ruleIndex"]] == result["ruleId"]  # 3.27.6
    for location in result.get("locations", []):
        check_location(location)
    related = result.get("relatedLocations", [])
    assert len({location["id"] for location in related}) == len(related)  # 3.28.2
    for location in related:
        check_location(location)
        assert is_text(location["message"]["text"])
    for fix in result.get("fixes", []):
        check_fix(fix)


def check_location(location):
    if "physicalLocation" in location:
        physical = location["physicalLocation"]
        check_artifact(physical["artifactLocation"])  # 3.29.3
        check_region(physical["region"])
    else:
        assert all(is_text(one["name"]) for one in location["logicalLocations"])


def check_artifact(location):
    assert re.fullmatch(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+", location["uri"])  # RFC 3986


def check_region(region):
    start = region["startLine"], region["startColumn"]
    assert min(start) >= 1  # 3.30.5, 3.30.6
    assert (region["endLine"], region["endColumn"]) >= start  # 3.30.7, 3.30.8


def check_fix(fix):
    assert is_text(fix["description"]["text"])
    assert fix["artifactChanges"]  # 3.55.3: one at least
    for change in fix["artifactChanges"]:
        check_artifact(change["artifactLocation"])  # 3.56.2
        assert change["replacements"]  # 3.56.3: one at least
        for replacement in change["replacements"]:
            check_region(replacement["deletedRegion"])  # 3.57.3
            assert isinstance(replacement["insertedContent"]["text"], str)  # 3.57.4


def test_a_log_follows_the_specification():
    log = sarif(found())
    check_log(log)
    assert json.loads(json.dumps(log)) == log


def test_every_code_is_a_rule():
    rules = sarif([])["runs"][0]["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(CODES)
    explained = next(rule for rule in rules if rule["id"] == "S402")
    assert explained["fullDescription"]["text"] != explained["shortDescription"]["text"]
    assert explained["helpUri"].endswith("/explanations/S402.md")
    assert "keys and values" in explained["help"]["text"]


def test_where_a_result_points():
    (result,) = sarif(
        found(WRONG.replace("context = 32768 tied = 一", "").replace("stage", "amend stage"))
    )["runs"][0]["results"]
    (place,) = result["locations"]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "my%20recipes/case.vlm"
    assert place["physicalLocation"]["region"]["snippet"]["text"] == "widht"
    (other,) = result["relatedLocations"]
    assert other["physicalLocation"]["artifactLocation"]["uri"] == "recipes/qwen2_vl_7b.vlm"
    assert other["message"]["text"] == "declared here"
    (fix,) = result["fixes"]
    (change,) = fix["artifactChanges"]
    assert change["replacements"][0]["insertedContent"]["text"] == "width"


def test_what_has_no_file():
    text = "recipe case extends qwen2_vl_2b {}"
    log = sarif([*found(text, amend=["lm.widht=3"]), Diagnostic("E107", "it cannot be read")])
    check_log(log)
    set_here, nowhere = log["runs"][0]["results"]
    name = set_here["locations"][0]["logicalLocations"][0]["name"]
    assert name == "--set lm.widht=3"
    assert "locations" not in nowhere


def test_a_fix_in_two_files():
    one, two = Source("/a.vlm", "ab"), Source("b.vlm", "cd")
    edits = (Edit(one.span(0, 1), "x"), Edit(two.span(1, 2), ""), Edit(one.span(2, 2), "y"))
    log = sarif([Diagnostic("E101", "t", (Label(one.span(0, 1)),), fix=Fix("so", edits, False))])
    check_log(log)
    (result,) = log["runs"][0]["results"]
    assert result["properties"] == {"fixIsSafe": False}
    changes = result["fixes"][0]["artifactChanges"]
    assert [len(change["replacements"]) for change in changes] == [2, 1]
    assert changes[0]["artifactLocation"]["uri"] == "file:///a.vlm"
