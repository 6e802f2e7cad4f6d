"""Mistakes are shown as one types, in the files where they stand, and mended on request."""

from __future__ import annotations


def codes(found):
    return sorted(one["code"] for one in found)


def test_a_mistake_has_its_place_its_other_party_and_a_page(base):
    base.swap("    heads = 4\n    ffn   = 4 *", "    heads = 3\n    ffn   = 4 *")
    (found,) = base.mistakes(["S401"])
    assert base.at(found["range"]) == "3"
    assert found["severity"] == 1 and found["source"] == "triptych"
    (other,) = found["relatedInformation"]
    assert base.at(other["location"]["range"]) == "256"
    assert found["codeDescription"]["href"].endswith("S401.md")


def test_mistakes_follow_what_is_typed(base):
    base.swap("    context  = 2048tok", "    context  = 2048")
    assert base.at(base.mistakes(["V302"])[0]["range"]) == "2048"
    base.swap("    context  = 2048", "    context  = 2048tok")
    assert base.mistakes([]) == []


def test_what_is_proved_is_shown_too(base):
    base.swap("    freeze = [vit, lm]\n", "    freeze = [vit]\n")
    base.mistakes(["F601"])


def test_warnings_are_warnings(editor):
    text = editor.open("mine.vlm", "recipe mine extends qwen2_vl_7b {\n  drop mode chat\n}\n")
    assert all(one["severity"] == 2 for one in text.mistakes())


def test_a_base_is_read_as_it_is_typed(editor, base):
    variant = editor.open("mine.vlm", 'recipe mine extends "base.vlm" { amend lm { heads = 3 } }')
    assert len(variant.mistakes(["S401"])) == 1
    base.swap("    width    = 256\n", "    width    = 192\n")
    assert variant.mistakes(["S402"])


def test_a_mistake_of_a_base_is_shown_in_its_file(editor):
    (editor.folder / "base.vlm").write_text(
        "recipe base {\n  language = 1\n  lm : Decoder { width }\n}\n"
    )
    variant = editor.open("mine.vlm", 'recipe mine extends "base.vlm" { amend lm { heads = 3 } }')
    other = (editor.folder / "base.vlm").as_uri()
    found = editor._told(other).get(timeout=60)
    assert codes(found) == ["E101"] and found[0]["range"]["start"]["line"] == 2
    variant.close()
    editor.texts.clear()
    assert editor._told(other).get(timeout=60) == []


def test_a_slip_is_mended(base):
    base.swap("    kv_heads = 2", "    kv_haeds = 2")
    (found,) = base.mistakes(["N202"])
    (action,) = base.move("kv_§haeds").ask(
        "codeAction", range=found["range"], context={"diagnostics": [found]}
    )
    assert (
        action["kind"] == "quickfix" and action["isPreferred"] and "`kv_heads`" in action["title"]
    )
    assert "    kv_heads = 2" in base.edited(action["edit"]["changes"][base.uri])


def test_all_safe_fixes_at_once(base):
    base.put(base.text.replace("= 2048tok", "= 2048").replace("kv_heads", "kv_haeds"))
    base.mistakes(["N202", "V302"])
    everything = {"start": base.position(0), "end": base.position(len(base.text))}
    context = {"diagnostics": [], "only": ["source.fixAll"]}
    (action,) = base.ask("codeAction", range=everything, context=context)
    after = base.edited(action["edit"]["changes"][base.uri])
    assert "kv_heads = 2" in after and "= 2048tok" in after


def test_a_text_without_mistakes_offers_nothing_to_mend(base):
    everything = {"start": base.position(0), "end": base.position(len(base.text))}
    assert base.ask("codeAction", range=everything, context={"diagnostics": []}) == []


def test_a_text_that_was_never_saved_is_read(editor):
    text = editor.open(
        "new.vlm", "recipe a extends qwen2_vl_2b { amend lm { widht = 4 } }", on_disk=False
    )
    assert codes(text.mistakes()) == ["N209"]


def test_a_file_on_disk_that_changes_is_read_again(editor, base):
    variant = editor.open("mine.vlm", 'recipe mine extends "other.vlm" { }')
    assert codes(variant.mistakes()) == ["E107"]
    (editor.folder / "other.vlm").write_text(base.text.replace("recipe base", "recipe other"))
    changes = [{"uri": (editor.folder / "other.vlm").as_uri(), "type": 1}]
    editor.tell("workspace/didChangeWatchedFiles", {"changes": changes})
    assert variant.mistakes([]) == []
