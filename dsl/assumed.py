"""What a recipe assumes, since nothing published says it."""

from .recipe import Recipe


def assumed(recipe: Recipe, path: str = "") -> list[str]:
    """The settings, at or below a path, that no publication gives: `sft.optim`.

    What stands inside an assumed call or list is not listed beside it.
    """
    found = [name for name, origin in recipe.facts.origins.items() if origin.kind == "assumed"]
    below = [name for name in found if not path or f"{name}.".startswith(f"{path}.")]
    return [
        name
        for name in below
        if not any(name.startswith((f"{other}.", f"{other}[")) for other in below)
    ]
