"""A compiler for recipes of vision-language models.

>>> import triptych
>>> recipe = triptych.recipe("qwen2_vl_2b")
>>> recipe.lm.width
1536
>>> print(triptych.diff(triptych.recipe("qwen2_vl_7b"), recipe).same)
('vit (631,183,360 reusable)', 'tokens', 'prompts', 'numerics', 'stages')
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backends.embedding import AnySession
    from .compiler.diff import Difference
    from .dsl.recipe import Recipe

__all__ = ["compile", "diff", "load", "recipe"]

# Nothing is imported up here: commands that answer in a blink must not wait for torch, and pytest
# imports this file once more under the checkout's own name.


def recipe(name_or_path: str, *, amend: Sequence[str] = ()) -> Recipe:
    """A recipe that ships, by name, or one of a file; proved before it is handed out.

    `amend` holds lines such as `lm.depth = 12`. RecipeError says all that is wrong, and where.
    """
    from .compiler.pipeline import prove
    from .dsl.load import load_recipe

    read = load_recipe(name_or_path, amend=amend)
    prove(read)
    return read


def compile(
    recipe: Recipe,
    *,
    weights: Path | int,
    backend: str = "eager",
    mode: str | None = None,
    chunk: int | None = None,
) -> AnySession:
    """From a recipe to a session that answers, as that of `load`: the whole way in one place.

    `weights` is where they lie (a run of `train`, a `.safetensors` file, a folder of published
    ones) or the seed of random ones. `mode` is the recipe's first unless it is named. MissingError
    when this machine lacks what the backend needs, WeightsError when the weights do not fit.
    """
    from .backends import able
    from .backends.embedding import session_of
    from .backends.job import job_from
    from .blocks.input.calls import CHUNK

    maker = able(backend)
    work = job_from(recipe, mode or next(iter(recipe.modes)), weights)
    return session_of(maker.compile(work), work.resources, work.spec, chunk=chunk or CHUNK)


def load(
    artefact: Path | str, *, chunk: int | None = None, weights: Path | None = None
) -> AnySession:
    """A session of what `triptych compile` wrote; needs neither the recipe nor the compiler.

    Of a mode that answers, `chat` takes a dialogue, or a question alone, and what it gives is
    listened to piece by piece; `text` is all of it. `batch` answers several dialogues at a time,
    and `conversation` goes on from turn to turn:

        from triptych.blocks.input.sample import Attachment, Turn

        session = triptych.load("artefact")
        asked = Turn("user", (Attachment("image", Path("scene.png")), "Describe the picture."))
        for piece in session.chat([asked]):
            print(piece, end="", flush=True)

        talk = session.conversation()
        print(talk.chat("What can you do?").text, talk.chat("And what else?").text)

    Prompts longer than `chunk` tokens, 1,024 unless given, are fed in pieces of so many.
    `weights` is where they lie, of an artefact that was made without, or whose links have moved.
    ArtefactError when a file is not what the manifest says, or this machine cannot run it.
    """
    from .backends.artefact import Artefact
    from .blocks.input.calls import CHUNK

    return Artefact(Path(artefact), weights).session(chunk=chunk or CHUNK)


def diff(old: Recipe, new: Recipe) -> Difference:
    """How the architecture of `new` differs from that of `old`, and which weights it can reuse."""
    from .compiler.diff import diff as compare

    return compare(old, new)
