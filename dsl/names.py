"""One recipe laid over its bases: what each of its statements declares, changes or takes away."""

from collections.abc import Iterable
from typing import NoReturn, Protocol

from . import syntax
from .diagnostics import Diagnostic, Edit, Findings, Fix, Label, listing, nearest, rename
from .imports import imported
from .limits import MOST_BLOCKS, MOST_STATEMENTS
from .reserved import reserved
from .source import Span
from .whole import (
    DEFAULT_TYPES,
    ENTRY_HOMES,
    NAMED_BLOCKS,
    SINGLE_BLOCKS,
    TYPED_BLOCKS,
    Entry,
    Key,
    Part,
    Stated,
    Whole,
    article,
    key_of,
    name_span,
)


class Others(Protocol):
    """Where a layer finds what it imports from."""

    def asked(self, statement: syntax.Import, asker: syntax.RecipeNode) -> Whole | None:
        """The recipe that an import names; None after a finding."""


WIDENED = ("prompt", "new", "resize")
"""The settings of a mode that stand under `amend` where they admit more than any stage trains."""


class Layer:
    """Lays one recipe over what its bases have made.

    `is_torn` says afterwards that an import failed, so that what speaks of it would only mislead.
    """

    def __init__(
        self,
        whole: Whole,
        recipe: syntax.RecipeNode,
        inherited: bool,
        others: Others,
        findings: Findings,
    ) -> None:
        self.is_torn = False
        self._whole = whole
        self._recipe = recipe
        self._inherited = inherited
        self._others = others
        self._findings = findings
        self._written: set[tuple[str, Key]] = set()
        self._declared: set[str] = set()

    def apply(self) -> None:
        for statement in self._recipe.body:
            match statement:
                case syntax.Setting():
                    self._recipe_setting(statement)
                case syntax.Assert():
                    self._whole.asserts.setdefault(str(statement.comparison), statement)
                case syntax.Drop():
                    self._drop_part(statement)
                case syntax.DropAssert():
                    self._drop_assert(statement)
                case syntax.Import():
                    self._import(statement)
                case syntax.Block():
                    self._block(statement)

    def _complain(
        self,
        code: str,
        title: str,
        labels: Iterable[Label],
        reason: str = "",
        fix: Fix | None = None,
    ) -> None:
        self._findings.add(Diagnostic(code, title, tuple(labels), reason, fix))

    def _recipe_setting(self, setting: syntax.Setting) -> None:
        before = self._whole.settings.get(setting.name)
        if before and ("", ("setting", setting.name)) in self._written:
            self._twice(setting.name_span, before)
            return
        self._written.add(("", ("setting", setting.name)))
        self._whole.settings[setting.name] = Entry(
            setting, self._recipe.name, self._inherited, replaced=before
        )

    def _twice(self, span: Span, before: Entry) -> None:
        self._complain(
            "N206",
            f"`{span.text}` is written twice",
            (
                Label(span, "written again"),
                Label(before.statement.span, "first written here", False),
            ),
            fix=Fix("keep one of them"),
        )

    # imports

    def _import(self, statement: syntax.Import) -> None:
        there = self._others.asked(statement, self._recipe)
        parts = list(imported(statement, there, self._findings)) if there else []
        self.is_torn |= len(parts) < len(statement.blocks)
        for part in parts:
            present = self._whole.parts.get(part.name)
            if present is not None:
                self._imported_already(part, present)
                continue
            self._take(part, part.imported or part.header)

    def _imported_already(self, part: Part, present: Part) -> None:
        assert part.imported
        if part.name in self._declared:
            self._name_twice(part.kind, part.imported, present)
            return
        kind = "" if present.kind in SINGLE_BLOCKS else f"{present.kind} "
        fix = f"write `drop {kind}{part.name}` before the import"
        if part.kind not in (*SINGLE_BLOCKS, "input"):
            fix += f", or `import {part.name} as ...`"
        self._complain(
            "N210",
            f"`{part.name}` is there already",
            (
                Label(part.imported, "imported here"),
                Label(present.stated, f"`{present.recipe}` has it", False),
            ),
            fix=Fix(fix),
        )

    # blocks

    def _block(self, block: syntax.Block) -> None:
        if not self._header_holds(block):
            return
        present = self._whole.parts.get(block.name)
        match block.verb:
            case "amend":
                if self._may_change(block, present):
                    assert present
                    self._fill(present, block, amending=True)
            case "replace":
                if self._may_change(block, present):
                    self._declare(block)
            case _:
                if self._may_add(block, present):
                    self._declare(block)

    def _declare(self, block: syntax.Block) -> None:
        type_ = block.type or DEFAULT_TYPES.get(block.kind)
        if block.kind in TYPED_BLOCKS and type_ is None:
            self._complain(
                "N203",
                f"{article(block.kind)} needs a type",
                (Label(block.header),),
                fix=Fix(f"write `{block.header.text} : Type`"),
            )
            return
        if wrong := reserved(block.kind, block.name, block.name_span):
            self._findings.add(wrong)
        part = Part(block.kind, block.name, type_, block.header, block.type_span, self._recipe.name)
        if present := self._whole.parts.get(block.name):
            part.former = present.entries
        self._take(part, block.header)
        self._fill(part, block, amending=False)

    def _take(self, part: Part, span: Span) -> None:
        """Give the recipe a block that is new, and that this layer says it has."""
        if len(self._whole.parts) >= MOST_BLOCKS and part.name not in self._whole.parts:
            self._too_many(f"`{self._whole.name}` has more than {MOST_BLOCKS} blocks", span)
        self._whole.parts[part.name] = part
        self._declared.add(part.name)
        self._whole.dropped.pop(part.name, None)

    def _too_many(self, title: str, span: Span) -> NoReturn:
        self._complain("E112", title, (Label(span, "this one is too many"),))
        self._findings.raise_if_any()
        raise AssertionError("a finding was left")

    def _header_holds(self, block: syntax.Block) -> bool:
        kinds = (*SINGLE_BLOCKS, *NAMED_BLOCKS)
        if block.kind not in kinds:
            near = nearest(block.kind, kinds)
            self._complain(
                "N203",
                f"there is no block `{block.kind}`",
                (Label(block.kind_span),),
                fix=rename(block.kind_span, near)
                if near
                else Fix(f"the blocks are {listing(kinds)}"),
            )
            return False
        unnamed = block.name_span == block.kind_span
        if block.kind in SINGLE_BLOCKS and not unnamed:
            self._complain(
                "N203",
                f"`{block.kind}` has no name of its own",
                (Label(block.name_span, "a recipe has only one"),),
                fix=Fix("leave the name out"),
            )
            return False
        if block.kind in NAMED_BLOCKS and unnamed:
            self._complain(
                "N203",
                f"{article(block.kind)} needs a name",
                (Label(block.kind_span),),
                fix=Fix(f"write `{block.kind} name`"),
            )
            return False
        if block.type_span and block.kind not in TYPED_BLOCKS:
            self._complain("N203", f"{article(block.kind)} has no type", (Label(block.type_span),))
            return False
        return True

    def _may_change(self, block: syntax.Block, present: Part | None) -> bool:
        """Whether `amend` or `replace` finds what it changes."""
        assert block.verb and block.verb_span
        is_own = present is not None and not present.imported
        if self._recipe.base is None and (is_own or not self._imports):
            self._no_base(block.verb, block.verb_span)
            return False
        if present is None:
            self._lacking(block.verb, block.kind, block.name, block.name_span)
            return False
        if present.kind != block.kind:
            self._complain(
                "N215",
                f"`{block.name}` is {article(present.kind)}",
                (
                    Label(block.kind_span, f"not {article(block.kind)}"),
                    Label(present.header, "declared here", False),
                ),
                fix=rename(block.kind_span, present.kind),
            )
            return False
        if block.verb == "amend" and block.type and block.type != present.type:
            assert block.type_span
            self._complain(
                "N215",
                f"`{block.name}` is of the type {present.type}",
                (
                    Label(block.type_span, "`amend` keeps the type"),
                    Label(present.header, "declared here", False),
                ),
                fix=Fix("write `replace` and state the whole block"),
            )
            return False
        return True

    def _may_add(self, block: syntax.Block, present: Part | None) -> bool:
        """Whether a new block may stand here under its name."""
        verb_place = block.span.source.span(block.span.start, block.span.start)
        if block.verb == "add" and self._recipe.base is None:
            assert block.verb_span
            self._no_base("add", block.verb_span)
            return False
        if present is None:
            if self._recipe.base is None or block.verb == "add":
                return True
            self._complain(
                "N211",
                f"a variant says how it treats `{block.name}`",
                (Label(block.header, f"`{self._base_name}` has no `{block.name}`"),),
                fix=Fix("write `add` before it", (Edit(verb_place, "add "),)),
            )
            return False
        if block.name in self._declared:
            self._name_twice(block.kind, block.name_span, present)
            return False
        verb = Edit(block.verb_span, "amend") if block.verb_span else Edit(verb_place, "amend ")
        amend = (verb,) if present.kind == block.kind else ()
        self._complain(
            "N210",
            f"`{block.name}` is there already",
            (
                Label(block.header, "added here" if block.verb else "declared again"),
                Label(present.stated, f"`{present.recipe}` has it", False),
            ),
            fix=Fix(
                "write `amend` to change settings of it, `replace` to state it anew", amend, False
            ),
        )
        return False

    def _name_twice(self, kind: str, span: Span, present: Part) -> None:
        fix = Fix("rename one of them")
        if present.imported:
            fix = Fix("write `amend` to change what is imported, or import one of them only")
        self._complain(
            "N205",
            f"two blocks have the name `{present.name}`",
            (
                Label(span, "this one"),
                Label(present.stated, "and this one", False),
            ),
            reason=""
            if present.kind == kind
            else "parts, layouts, objectives, stages and modes share one set of names",
            fix=fix,
        )

    @property
    def _base_name(self) -> str:
        assert self._recipe.base
        return self._recipe.base.name

    @property
    def _imports(self) -> list[syntax.Imported]:
        """All that the recipe imports, wherever it says so."""
        statements = (it for it in self._recipe.body if isinstance(it, syntax.Import))
        return [block for statement in statements for block in statement.blocks]

    def _no_base(self, verb: str, span: Span) -> None:
        self._complain(
            "N211",
            f"there is no base to {verb}",
            (
                Label(span, "this recipe extends nothing"),
                Label(self._recipe.name_span, "", False),
            ),
            fix=Fix(
                f"leave `{verb}` out, or write `recipe {self._recipe.name} extends BASE`",
            ),
        )

    def _lacking(self, verb: str, kind: str, name: str, span: Span) -> None:
        known = [part.name for part in self._whole.parts.values() if part.kind == kind]
        near = nearest(name, known) or nearest(name, self._whole.parts)
        fix = None
        if near:
            fix = rename(span, near)
        elif verb == "amend" and self._recipe.base:
            fix = Fix(f"write `add` to create it; {self._base_name} has {listing(known)}")
        holder = f"`{self._base_name}` has" if self._recipe.base else "this recipe imports"
        labels = [Label(span, f"{holder} no {kind} of this name")]
        for block in self._imports:
            if block.here == name:
                labels = [Label(span), Label(block.span, "imported here, further down", False)]
                fix = Fix("move the import up: statements are read in their order")
        if name in self._whole.dropped:
            labels.append(Label(self._whole.dropped[name], "dropped here", False))
        self._complain("N209", f"there is no `{name}` to {verb}", labels, fix=fix)

    def _drop_part(self, drop: syntax.Drop) -> None:
        if self._recipe.base is None:
            self._no_base("drop", drop.kind_span)
            return
        present = self._whole.parts.get(drop.name)
        if present is None or present.kind != drop.kind:
            self._lacking("drop", drop.kind, drop.name, drop.name_span)
            return
        del self._whole.parts[drop.name]
        self._whole.dropped[drop.name] = drop.span

    def _drop_assert(self, drop: syntax.DropAssert) -> None:
        if self._recipe.base is None:
            self._no_base("drop", drop.span)
            return
        text = str(drop.comparison)
        if self._whole.asserts.pop(text, None) is None:
            near = nearest(text, self._whole.asserts)
            self._complain(
                "N209",
                "there is no such assert to drop",
                (Label(drop.comparison.span),),
                fix=rename(drop.comparison.span, near) if near else None,
            )

    # statements of a block

    def _fill(self, part: Part, block: syntax.Block, amending: bool) -> None:
        for statement in block.body:
            match statement:
                case syntax.Drop():
                    self._drop_entry(part, statement, amending)
                case syntax.Verbed():
                    self._verbed_entry(part, statement, amending)
                case syntax.Setting():
                    self._put(part, statement, amending)
                case _:
                    if self._is_at_home(part, statement):
                        self._plain_entry(part, statement, amending)

    def _is_at_home(self, part: Part, statement: Stated) -> bool:
        kind, _ = key_of(statement)
        home = ENTRY_HOMES[kind]
        if part.kind == home:
            return True
        self._complain(
            "N203",
            f"a `{kind}` belongs into {article(home)}",
            (Label(statement.span), Label(part.header, f"this is {article(part.kind)}", False)),
        )
        return False

    def _plain_entry(self, part: Part, statement: Stated, amending: bool) -> None:
        kind, name = key_of(statement)
        if amending and (kind, name) not in part.entries:
            self._entry_lacking(part, statement, "change")
            return
        self._put(part, statement, amending)

    def _verbed_entry(self, part: Part, verbed: syntax.Verbed, amending: bool) -> None:
        statement = verbed.statement
        if isinstance(statement, syntax.Setting):
            self._amended_setting(part, verbed, statement)
            return
        assert not isinstance(statement, syntax.Drop | syntax.Verbed)
        if not amending:
            self._complain(
                "N211",
                f"there is nothing to {verbed.verb} to",
                (Label(verbed.verb_span, "the block is new"),),
                fix=Fix(f"leave `{verbed.verb}` out", (Edit(verbed.verb_span, ""),)),
            )
            return
        if not self._is_at_home(part, statement):
            return
        key = key_of(statement)
        before = part.entries.get(key)
        if verbed.verb == "add" and before:
            self._complain(
                "N210",
                f"the {key[0]} `{key[1]}` is there already",
                (
                    Label(statement.span, "added here"),
                    Label(before.statement.span, f"`{before.recipe}` has it", False),
                ),
                fix=Fix("leave `add` out to change it", (Edit(verbed.verb_span, ""),)),
            )
            return
        if verbed.verb != "add" and before is None:
            self._entry_lacking(part, statement, verbed.verb)
            return
        self._put(part, statement, amending)

    def _amended_setting(self, part: Part, verbed: syntax.Verbed, setting: syntax.Setting) -> None:
        """`amend prompt = ...`: a mode admits more than any stage trains, and says so."""
        self._put(part, setting, amending=True)
        if verbed.verb == "amend" and part.kind == "mode" and setting.name in WIDENED:
            return
        self._complain(
            "V315",
            f"`{verbed.verb}` says nothing of `{setting.name}`",
            (
                Label(verbed.verb_span, "a setting is written `name = value`"),
                Label(part.header, f"this is {article(part.kind)}", False),
            ),
            f"`amend` stands before {listing(WIDENED, last='or')} of a mode alone, where it admits "
            "more than any stage trains",
            Fix(f"leave `{verbed.verb}` out", (Edit(verbed.verb_span, ""),)),
        )

    def _entry_lacking(self, part: Part, statement: Stated, verb: str) -> None:
        kind, name = key_of(statement)
        near = nearest(name, [known for its_kind, known in part.entries if its_kind == kind])
        self._complain(
            "N209",
            f"there is no {kind} `{name}` to {verb}",
            (Label(statement.span), Label(part.header, self._whose(part), False)),
            fix=Fix(f"write `add` to create it{f', or mean `{near}`' if near else ''}"),
        )

    def _whose(self, part: Part) -> str:
        return "the imported block" if part.imported else "the base's block"

    def _put(self, part: Part, statement: Stated, amending: bool) -> None:
        key = key_of(statement)
        before = part.entries.get(key)
        if before and (part.name, key) in self._written:
            self._twice(name_span(statement), before)
            return
        if len(part.entries) >= MOST_STATEMENTS and key not in part.entries:
            title = f"`{part.name}` has more than {MOST_STATEMENTS:,} statements"
            self._too_many(title, statement.span)
        self._written.add((part.name, key))
        replaced = before or part.former.get(key)
        part.entries[key] = Entry(statement, self._recipe.name, self._inherited, amending, replaced)

    def _drop_entry(self, part: Part, drop: syntax.Drop, amending: bool) -> None:
        if not amending:
            self._complain(
                "N211", "there is nothing to drop", (Label(drop.span, "the block is new"),)
            )
            return
        key = next((key for key in part.entries if key == (drop.kind, drop.name)), None)
        if key is None:
            known = [name for kind, name in part.entries if kind == drop.kind]
            near = nearest(drop.name, known)
            other = next((kind for kind, name in part.entries if name == drop.name), None)
            if other:
                near = f"{other} {drop.name}"
            self._complain(
                "N209",
                f"there is no {drop.kind} `{drop.name}` to drop",
                (Label(drop.name_span), Label(part.header, self._whose(part), False)),
                fix=rename(drop.name_span, near) if near else None,
            )
            return
        del part.entries[key]
