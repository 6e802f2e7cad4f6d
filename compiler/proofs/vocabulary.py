"""Special tokens are those of the tokenizer, where its file is at hand, and text spells none."""

from __future__ import annotations

from ...blocks.input.pieces import PLACEHOLDER, Pieces
from ...dsl.diagnostics import Diagnostic, Findings, Fix
from ...dsl.recipe import Recipe
from ..places import labels
from ..vocabulary import pieces_of


def prove_vocabulary(recipe: Recipe, findings: Findings) -> None:
    """Gather the special tokens that the tokenizer's file knows otherwise, or as plain text.

    Ids that the file leaves free, or keeps as placeholders, may be named by the recipe.
    """
    if recipe.tokens is None or not recipe.tokens.specials:
        return
    pieces = pieces_of(recipe)
    if pieces is None:
        return
    for name, token in recipe.tokens.specials.items():
        found = _differs(recipe, pieces, name, token.text, token.id)
        if found:
            findings.add(found)


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
            else Fix(f"write `@ {known}`", safe=False),
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
