"""Special tokens are those of the tokenizer, where its file is at hand, and text spells none."""

from __future__ import annotations

from ...dsl.diagnostics import Diagnostic, Findings, Fix
from ...dsl.recipe import Recipe
from ..pieces import PLACEHOLDER, Pieces
from ..places import labels
from ..repairs import numbered
from ..vocabulary import pieces_of


def prove_vocabulary(recipe: Recipe, findings: Findings) -> None:
    """Gather special tokens that the tokenizer's file knows otherwise, and tokens without a row.

    Ids that the file leaves free, or keeps as placeholders, may be named by the recipe.
    """
    if recipe.tokens is None or not recipe.tokens.specials:
        return
    pieces = pieces_of(recipe)
    if pieces is None:
        return
    if recipe.lm and (beyond := pieces.piece(recipe.lm.vocab)) is not None:
        findings.add(_too_few_rows(recipe, recipe.lm.vocab, beyond))
    for name, token in recipe.tokens.specials.items():
        found = _differs(recipe, pieces, name, token.text, token.id)
        if found:
            findings.add(found)


def _too_few_rows(recipe: Recipe, vocab: int, beyond: str) -> Diagnostic:
    return Diagnostic(
        "T512",
        "the tokenizer has tokens for which the language model has no row",
        labels(
            recipe,
            ("lm.vocab", f"rows 0 to {vocab - 1:,}"),
            ("tokens.tokenizer", f"its file goes on with {beyond!r} as {vocab}"),
        ),
        "the first text that is written with such a token is looked up behind the table",
        Fix("widen `lm.vocab`, or take the tokenizer that the weights were made with"),
    )


def _differs(recipe: Recipe, pieces: Pieces, name: str, text: str, id: int) -> Diagnostic | None:
    assert recipe.tokens
    known, piece = pieces.id_of(text), pieces.piece(id)
    file = ("tokens.tokenizer", "by the file of this tokenizer")
    if known is not None and known != id:
        return Diagnostic(
            "T508",
            f"`{name}` has another id in the tokenizer",
            labels(recipe, (f"tokens.{name}", f"the tokenizer knows {text!r} as {known}"), file),
            f"the weights learnt {text!r} in row {known}, and {id} as "
            + (f"{piece!r}" if piece else "nothing"),
            Fix("take a text that the tokenizer does not know", safe=False)
            if pieces.is_text(known)
            else Fix(f"write `@ {known}`", numbered(recipe, name, known), safe=False),
        )
    if piece is not None and piece != text and (pieces.is_text(id) or not _is_free(piece)):
        return Diagnostic(
            "T508",
            f"`{name}` stands on the id of another token",
            labels(recipe, (f"tokens.{name}", f"{id} is {piece!r}"), file),
            f"the weights know row {id} as {piece!r}, and the tokenizer has no {text!r}",
            Fix("take an id that the tokenizer leaves free, or its own token"),
        )
    if pieces.is_text(id):
        return Diagnostic(
            "T510",
            f"text can spell `{name}`",
            labels(recipe, (f"tokens.{name}", f"{text!r} is a piece of plain text"), file),
            "whoever types it would write the token that marks the borders of turns, or the places "
            "of features",
            Fix("take a token that the tokenizer keeps apart from text"),
        )
    return None


def _is_free(piece: str) -> bool:
    """Whether a vocabulary keeps a piece for a token that is named later."""
    return PLACEHOLDER.search(piece) is not None
