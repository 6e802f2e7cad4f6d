"""A recipe's text from its JSON, such as a program or a language model writes.

Only the shape of the JSON is looked at here: what is wrong with the recipe is said when its text is
checked, as of any other.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn

from . import syntax
from .diagnostics import Diagnostic, Label, RecipeError
from .evaluate import model_in
from .format import format_text
from .forms import NAME, PLAIN_TEXT, Form, Json
from .kinds import Model
from .parse import parse, parse_amendments
from .recipe import CALLS, Recipe
from .schema import BESIDE, TAGS, fields_of
from .source import Source
from .whole import DEFAULT_TYPES, SINGLE_BLOCKS

_BLOCKS = {
    "tokens": "tokens",
    "inputs": "input",
    "encoders": "encoder",
    "adapters": "adapter",
    "lm": "lm",
    "weights": "weights",
    "layouts": "layout",
    "objectives": "objective",
    "stages": "stage",
    "modes": "mode",
}
"""From the keys of the JSON to the kinds of blocks, in the order in which they are written."""


def read_json(text: str, name: str) -> Json:
    """The JSON of a file; raises `RecipeError` where it is none."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        source = Source(name, text)
        label = Label(source.span(error.pos, error.pos + 1), error.msg)
        raise RecipeError([Diagnostic("E101", "this is no JSON", (label,))]) from None
    except ValueError:
        raise RecipeError([Diagnostic("E101", "a number of the JSON is too long")]) from None
    except RecursionError:
        raise RecipeError([Diagnostic("E110", "the JSON is nested too deeply")]) from None


def _no_number(text: str) -> NoReturn:
    raise RecipeError([Diagnostic("E101", f"`{text}` is no number of the recipe language")])


def to_text(data: Json, name: str) -> str:
    """The text of a recipe in canonical form, under the name that it gets.

    Raises `RecipeError` where the JSON is not of the shape that the schema tells.

    >>> lm = {"type": "Decoder", "context": "64tok", "width": {"expression": "2 * vit.width"}}
    >>> print(to_text({"language": 1, "lm": lm, "assumed": ["lm.context"]}, "small"), end="")
    recipe small {
      language = 1
    <BLANKLINE>
      lm : Decoder {
        context = assumed(64tok)
        width   = 2 * vit.width
      }
    }
    """
    try:
        return format_text(_Writer(_table(data, "the recipe")).recipe(name), name)
    except RecursionError:
        raise RecipeError([Diagnostic("E110", "the JSON is nested too deeply")]) from None


def text_of_block(kind: str, name: str, data: Json) -> str:
    """One block, not yet in canonical form."""
    return "\n".join(_Writer({}).block(kind, name, _table(data, name)))


def text_of_items(data: Json) -> str:
    """The items of a layout's rule.

    >>> text_of_items([{"item": "special", "special": "end"}, {"item": "text", "text": "!"}])
    'end "!"'
    """
    return _Writer({}).items(data, "items")


def _misshapen(path: str, wanted: str) -> NoReturn:
    raise RecipeError(
        [
            Diagnostic(
                "E101",
                f"`{path}` is not {wanted}",
                reason="`triptych schema` prints the JSON Schema of a recipe",
            )
        ]
    )


def _table(data: Json, path: str) -> Mapping[str, Json]:
    return data if isinstance(data, dict) else _misshapen(path, "an object")


def _list(data: Json, path: str) -> list[Json]:
    return data if isinstance(data, list) else _misshapen(path, "a list")


def _string(data: Json, path: str) -> str:
    if not isinstance(data, str):
        _misshapen(path, "a string")
    if not data.isascii() and any("\ud800" <= letter <= "\udfff" for letter in data):
        _misshapen(path, "a string of whole letters")
    return data


def _name(data: Json, path: str) -> str:
    if not isinstance(data, str) or not re.fullmatch(NAME, data):
        _misshapen(path, "a name of letters, digits and `_`")
    return data


def quoted(text: str) -> str:
    r"""A text as the recipe language writes it.

    >>> print(quoted('say "A"\n'))
    "say \"A\"\n"
    """
    for letter, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t")):
        text = text.replace(letter, escape)
    return f'"{text}"'


class _Writer:
    """Writes one recipe; a path says where in it a value stands."""

    def __init__(self, data: Mapping[str, Json]) -> None:
        self._data = data
        self._beside = {
            name: {_string(path, name) for path in _list(data.get(name, []), name)}
            for name in BESIDE
        }

    def recipe(self, name: str) -> str:
        """The whole text, not yet in canonical form."""
        data = dict(self._data)
        language = json.dumps(data.pop("language", None))
        data.pop("name", None)
        lines = [f"recipe {_name(name, 'name')} {{", f"language = {language}"]
        for key, kind in _BLOCKS.items():
            given = data.pop(key, None)
            if given is None:
                continue
            named = {kind: given} if kind in SINGLE_BLOCKS else _table(given, key)
            for block, settings in named.items():
                lines += ["", *self.block(kind, _name(block, key), _table(settings, block))]
        asserts = _list(data.pop("asserts", []), "asserts")
        lines += ["", *map(self._assert, asserts)]
        if unknown := sorted(set(data) - set(BESIDE)):
            _misshapen(unknown[0], "part of a recipe")
        return "\n".join([*lines, "}", ""])

    def block(self, kind: str, name: str, given: Mapping[str, Json]) -> Iterator[str]:
        """The lines of a block."""
        settings = dict(given)
        tags = {tag: settings.pop(tag) for tag in TAGS if tag in settings}
        type_ = _name(tags["type"], f"{name}.type") if "type" in tags else ""
        header = kind if kind in SINGLE_BLOCKS else f"{kind} {name}"
        yield f"{header} : {type_} {{" if type_ else f"{header} {{"
        forms = _forms(model_in(kind, name, type_ or DEFAULT_TYPES.get(kind)))
        stated = dict[str, list[str]]()
        for key, statements in _STATEMENTS.get(kind, {}).items():
            if key in settings:
                stated[key] = list(statements(self, settings.pop(key), f"{name}.{key}"))
        for key, value in settings.items():
            path = f"{name}.{_name(key, name)}"
            verb = "amend " if path in self._beside["amended"] else ""
            yield f"{verb}{key} = {self._value(value, forms.get(key), path)}"
        for lines in stated.values():
            yield from lines
        yield "}"

    # values

    def _value(self, data: Json, form: Form | None, path: str) -> str:
        text = self._bare(data, form, path)
        return f"assumed({text})" if path in self._beside["assumed"] else text

    def _bare(self, data: Json, form: Form | None, path: str) -> str:
        match data:
            case bool():
                return str(data).lower()
            case int() | float():
                return repr(data)
            case str():
                is_text = form is not None and form.is_text
                return quoted(_string(data, path)) if is_text else self._verbatim(data, path)
            case list():
                member = form.member if form else None
                items = (self._value(it, member, f"{path}[{i}]") for i, it in enumerate(data))
                return f"[{', '.join(items)}]"
            case {"expression": text, **rest} if not rest:
                return self._verbatim(text, path)
            case {"call": call}:
                arguments = {key: value for key, value in data.items() if key != "call"}
                return self._call(_name(call, f"{path}.call"), arguments, path)
            case {"item": _}:
                return self._item(data, path)
        _misshapen(
            path, "a value: a number, a string, true, false, a list or an object with `call`"
        )

    def _call(self, name: str, arguments: Mapping[str, Json], path: str) -> str:
        model = CALLS.get(name)
        forms = _forms(model)
        opened = model.open_arguments if model else None
        if opened and opened in arguments:
            member = forms[opened].member
            arguments = _table(arguments[opened], f"{path}.{opened}")
            forms = dict.fromkeys(arguments, member)
        positional = model.positional if model else ()
        written = list[str]()
        for key, value in arguments.items():
            text = self._value(value, forms.get(key), f"{path}.{_name(key, path)}")
            is_first = key == (positional[len(written)] if len(written) < len(positional) else "")
            written.append(text if is_first else f"{key}: {text}")
        return f"{name}({', '.join(written)})"

    def _verbatim(self, data: Json, path: str) -> str:
        """A string that is one value of the recipe language, and nothing more."""
        text = _string(data, path)
        if len(parse_amendments(Source(f"{path} of the JSON", f"a.a = {text}"))) != 1:
            _misshapen(path, "one value")
        return text

    # statements

    def _assert(self, data: Json) -> str:
        text = f"assert {_string(data, 'asserts')}"
        (recipe,) = parse(Source("asserts of the JSON", f"recipe a {{ {text} }}")).recipes
        if len(recipe.body) != 1 or not isinstance(recipe.body[0], syntax.Assert):
            _misshapen("asserts", "a list of comparisons")
        return text

    def specials(self, data: Json, path: str) -> Iterator[str]:
        """`special end = "<end>" @ 500`."""
        for name, given in _table(data, path).items():
            special = _table(given, f"{path}.{name}")
            text = quoted(_string(special.get("text"), f"{path}.{name}.text"))
            id_ = self._bare(special.get("id"), None, f"{path}.{name}.id")
            yield f"special {_name(name, path)} = {text} @ {id_}"

    def maps(self, data: Json, path: str) -> Iterator[str]:
        """`map "visual.*" -> "vit.*"`."""
        for number, given in enumerate(_list(data, path)):
            rule = _table(given, f"{path}[{number}]")
            source = quoted(_string(rule.get("source"), f"{path}[{number}].source"))
            target = self._bare(rule.get("target"), PLAIN_TEXT, f"{path}[{number}].target")
            yield f"map {source} -> {target}"

    def fresh(self, data: Json, path: str) -> Iterator[str]:
        """`fresh "merger.*" : normal(0.02)`."""
        for number, given in enumerate(_list(data, path)):
            rule = _table(given, f"{path}[{number}]")
            pattern = quoted(_string(rule.get("pattern"), f"{path}[{number}].pattern"))
            init = rule.get("init")
            start = f" : {self._bare(init, None, f'{path}[{number}].init')}" if init else ""
            yield f"fresh {pattern}{start}"

    def ignored(self, data: Json, path: str) -> Iterator[str]:
        """`ignore "*.inv_freq" : "a buffer"`."""
        for number, given in enumerate(_list(data, path)):
            rule = _table(given, f"{path}[{number}]")
            pattern, reason = (
                quoted(_string(rule.get(key), f"{path}[{number}].{key}"))
                for key in ("pattern", "reason")
            )
            yield f"ignore {pattern} : {reason}"

    def rules(self, data: Json, path: str) -> Iterator[str]:
        """`user(b) -> im_start b im_end`."""
        for name, given in _table(data, path).items():
            rule = _table(given, f"{path}.{name}")
            parameters = _list(rule.get("parameters"), f"{path}.{name}.parameters")
            names = ", ".join(_name(one, f"{path}.{name}.parameters") for one in parameters)
            items = self.items(rule.get("items"), f"{path}.{name}.items")
            yield f"{_name(name, path)}({names}) -> {items}"

    def items(self, data: Json, path: str) -> str:
        """The items of a rule, or inside one of them."""
        return " ".join(self._item(item, path) for item in _list(data, path))

    def _item(self, data: Json, path: str) -> str:
        item = _table(data, path)

        def word(key: str) -> str:
            return _name(item.get(key), f"{path}.{key}")

        match item.get("item"):
            case "text":
                return quoted(_string(item.get("text"), path))
            case "special":
                return word("special")
            case "slot":
                return word("parameter")
            case "repeat":
                counted = word("part") if item.get("part") else "tokens"
                return f"{word('special')} * {word('count')}.{counted}"
            case "index" | "corners":
                return f"{word('parameter')}.{item['item']}"
            case "rule":
                given = _list(item.get("arguments"), f"{path}.arguments")
                names = ", ".join(_name(one, f"{path}.arguments") for one in given)
                return f"{word('rule')}({names})"
            case "loss" | "apart":
                return f"{item['item']}({self.items(item.get('items'), f'{path}.items')})"
            case "choice":
                lines = _list(item.get("lines"), f"{path}.lines")
                return f"choice({', '.join(self.items(line, f'{path}.lines') for line in lines)})"
        _misshapen(path, "an item of a layout")


_Statements = Callable[[_Writer, Json, str], Iterator[str]]
_STATEMENTS: Mapping[str, Mapping[str, _Statements]] = {
    "tokens": {"specials": _Writer.specials},
    "weights": {"rules": _Writer.maps, "fresh": _Writer.fresh, "ignored": _Writer.ignored},
    "layout": {"rules": _Writer.rules},
}
"""Keys that are no settings, by the kinds of their blocks."""


def _forms(model: type[Model] | None) -> dict[str, Form]:
    """How the settings or arguments of a model look; of an unknown one, nothing is known."""
    return {name: form for name, (_, form) in fields_of(model).items()} if model else {}


assert set(_BLOCKS) | {"name", "language"} == set(fields_of(Recipe))
