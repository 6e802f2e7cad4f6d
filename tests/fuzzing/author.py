"""Recipes that hold, made from nothing: parts, layouts, stages, modes, and their variants."""

from __future__ import annotations

from triptych.tests.fuzzing.chance import Chance

ACTS = ("gelu", "silu", "relu", "quick_gelu", "gelu_tanh")
NORMS = ("layernorm(eps: 1e-6)", "rmsnorm(eps: 1e-5)", "layernorm(eps: 0.00001)")
TEXTS = ('"Q: "', '"A:"', '"<Img>"', '"\\n"', '" # no comment"', '"一\\t"', '"\\"quoted\\" \\\\"')


class Author:
    """Writes a recipe that holds, and what may become of it."""

    def __init__(self, chance: Chance) -> None:
        self.chance = chance
        self.parts = ["vit", "merger", "lm"]
        """Those that have parameters."""
        self.stages: list[str] = []
        self.between: list[str] = []
        """Adapters between the tower and the merger."""
        self.has_video = False

    def number(self, value: int, unit: str = "") -> str:
        """A number, written in one of the ways that come to it."""
        form = self.chance.below(10)
        if form == 7 and value % 2 == 0:
            return f"2 * {value // 2}{unit}"
        if form == 8:
            return f"{value + 2}{unit} - 2{unit}"
        if form == 9:
            return f"assumed({value}{unit})"
        return f"{value}{unit}"

    def block(self, head: str, **settings: str) -> str:
        """A block of settings, in any order."""
        lines = [f"{name.rstrip('_')} = {value}" for name, value in settings.items() if value]
        if self.chance.maybe(30):
            lines = sorted(lines, key=lambda _: self.chance.below(100))
        return f"{head} {{\n" + "\n".join(lines) + "\n}\n"

    # a whole recipe

    def recipe(self, name: str = "base") -> str:
        """A recipe without a base."""
        chance = self.chance
        self.packed = chance.maybe(60)
        self.patch = chance.one((14, 16, 8))
        self.window = chance.one((2, 1))
        self.grid = chance.one((4, 2, 6, 8))
        heads = chance.one((2, 1, 4))
        self.width = heads * chance.one((8, 16, 4))
        body = [
            "language = 1\n",
            self.tokens(),
            *self.inputs(),
            self.tower(heads),
            self.adapters(),
            self.decoder(),
            *self.layouts(),
            *self.training(),
            self.mode("answer"),
            *self.extras(),
        ]
        first, *rest = body
        if chance.maybe(20):
            rest.sort(key=lambda _: chance.below(100))
        return f"recipe {name} {{\n{first}{''.join(rest)}}}\n"

    def tokens(self) -> str:
        specials = ["eos", "place", "begin", "clip"]
        first = self.chance.one((500, 0, 100))
        lines = [
            f'special {name} = "<{name}>" @ {self.number(first + number)}'
            for number, name in enumerate(specials)
        ]
        tokenizer = self.chance.one(('hf_json("none.json")', 'sentencepiece("none.model")'))
        return "tokens {\n" + "\n".join([f"tokenizer = {tokenizer}", *lines, "pad = eos"]) + "\n}\n"

    def inputs(self) -> list[str]:
        chance = self.chance
        side = f"{self.patch * self.grid}px"
        self.has_video = self.packed and chance.maybe(30)
        multiple = (
            f"{self.window} * vit.patch" if chance.maybe(50) else f"{self.window * self.patch}px"
        )
        resize = f"native(multiple: {multiple}, budget: 1tok..{chance.one((16, 64, 9))}tok)"
        if not self.packed:
            resize = chance.one((f"square({side})", f"crop({side})", f"padded({side}, pad: mean)"))
        aspect = chance.one(("..4", "..200", "..1"))
        normalize = chance.one(
            ("clip()", "half()", "mean_std([0.5, 0.5, 0.5], [0.25, 0.25, 0.25])")
        )
        blocks = [self.block("input image", aspect=aspect, resize=resize, normalize=normalize)]
        if self.has_video:
            blocks.append(
                self.block(
                    "input video",
                    aspect=aspect,
                    rate="2fps",
                    frames="2..8 by 2",
                    resize=f"native(multiple: {multiple}, budget: 1tok..4tok)",
                    normalize=normalize,
                )
            )
        return blocks

    def tower(self, heads: int) -> str:
        chance = self.chance
        return self.block(
            "encoder vit : ViT",
            in_="[image, video]" if self.has_video else chance.one(("image", "[image]")),
            patch=self.number(self.patch, "px"),
            frames_per_patch="2" if self.has_video else "",
            depth=self.number(chance.one((2, 3, 4))),
            width=self.number(self.width),
            heads=self.number(heads),
            ffn=chance.one(("4 * vit.width", "32")),
            act=chance.one(ACTS),
            norm=chance.one(NORMS),
            pos="rope2d(theta: 1e4)" if self.packed else f"learned({self.grid}x{self.grid})",
            qkv_bias=chance.one(("", "true", "false")),
            final_norm=chance.one(("", "vit.norm", *NORMS)),
            layer_scale=chance.one(("", "0.1")),
        )

    def adapters(self) -> str:
        chance = self.chance
        if self.packed:
            return self.block(
                "adapter merger : MergeMLP",
                in_="vit",
                window=f"{self.window}x{self.window}",
                norm=chance.one(NORMS),
                hidden=chance.one(("4 * vit.width", "lm.width", "16")),
                out="lm.width",
                act=chance.one(ACTS),
            )
        form = chance.one(("MLP", "Linear", "Resampler", "QFormer", "PixelShuffle"))
        common = {"in_": chance.one(("vit", "vit.patches", "[vit]"))}
        if form == "Linear":
            return self.block("adapter merger : Linear", **common, out="lm.width")
        if form == "Resampler":
            return self.block(
                "adapter merger : Resampler",
                **common,
                queries=chance.one(("2x2", "4x4")),
                width="lm.width",
                heads="1",
                norm=chance.one(NORMS),
                out="lm.width",
            )
        if form == "QFormer":
            self.parts.append("queries")
            self.between.append("queries")
            former = self.block(
                "adapter queries : QFormer",
                **common,
                queries=self.number(chance.one((4, 8))),
                depth="2",
                width="16",
                heads="2",
                ffn="32",
                act=chance.one(ACTS),
                norm=chance.one(NORMS),
                cross_every=chance.one(("", "2")),
            )
            return former + self.block("adapter merger : Linear", in_="queries", out="lm.width")
        fold = ""
        if form == "PixelShuffle":
            self.between.append("fold")
            fold = self.block("adapter fold : PixelShuffle", **common, factor="2")
            common = {"in_": "fold"}
        return fold + self.block(
            "adapter merger : MLP",
            **common,
            hidden=chance.one(("lm.width", "2 * lm.width")),
            out="lm.width",
            act=chance.one(ACTS),
        )

    def decoder(self) -> str:
        chance = self.chance
        heads = chance.one((4, 2, 8))
        head = chance.one((8, 16))
        if self.packed and chance.maybe(50):
            pos = f"mrope([{head // 4}, {head // 8}, {head // 8}], theta: 1e6)"
        else:
            pos = "rope(theta: 1e4)"
        return self.block(
            "lm : Decoder",
            in_="merger",
            depth=self.number(chance.one((2, 3))),
            width=self.number(heads * head),
            heads=self.number(heads),
            kv_heads=chance.one(("", "1", "2")),
            ffn=chance.one(("2 * lm.width", "96")),
            vocab="512",
            act=chance.one(ACTS),
            norm=chance.one(NORMS),
            pos=pos,
            tied=chance.one(("", "true", "false")),
            qkv_bias=chance.one(("", "true")),
            context=chance.one(("2048tok", "2ktok + 48tok", "4096tok")),
        )

    def layouts(self) -> list[str]:
        chance = self.chance
        text = lambda: chance.one(("", *TEXTS))  # noqa: E731
        clip = "video(x) -> begin clip * x.tokens\n" if self.has_video else ""
        places = f"image(x) -> {text()} place * x.tokens {text()}\n{clip}"
        caption = "pair(x, t) -> image(x) " + chance.one(("loss(t eos)", "loss(apart(t) eos)"))
        chat = (
            f"{places}system(b) -> b {text()}\nuser(b) -> begin {text()} b {text()}\n"
            f"assistant(b) -> {text()} loss(b eos) {text()}\n"
        )
        if chance.maybe(30):
            chat += f"gap = {chance.one(TEXTS)}\nstrip = true\n"
        if chance.maybe(20):
            caption = f'pair(x, t) -> image(x) choice("One: ", {text() or "begin"}) loss(t eos)'
        return [f"layout caption {{\n{places}{caption}\n}}\n", f"layout chat {{\n{chat}}}\n"]

    def training(self) -> list[str]:
        first = self.chance.one((["merger"], ["vit", "merger"], self.parts))
        count = 1 + self.chance.below(3)
        return [self.stage(f"stage_{i}", self.parts if i else first) for i in range(count)]

    def stage(self, name: str, trained: list[str]) -> str:
        chance = self.chance
        train = list(trained)
        freeze = [part for part in self.parts if part not in train]
        if "vit" in train and chance.maybe(20):
            train[train.index("vit")] = chance.one(("lr(vit, 0.1)", "decay(vit, 0.9)"))
        if "lm" in freeze and chance.maybe(20):
            train.append("lora(lm.blocks.attn, rank: 2)")
        after = self.stages[-1] if self.stages else ""
        self.stages.append(name)
        optim = chance.one(
            ("adamw(lr: 1e-3)", "adamw(lr: 1e-4, betas: [0.9, 0.95], weight_decay: 0.1, clip: 1.0)")
        )
        return self.block(
            f"stage {name}",
            after=after,
            train=f"[{', '.join(train)}]",
            freeze=f"[{', '.join(freeze)}]" if freeze else "",
            layout=chance.one(("caption", "[caption, chat]", "chat")),
            data=chance.one(
                ("mix(captions: 1)", "mix(captions: 0.7, chat: ramp(0, 0.3, over: 10steps))")
            ),
            stop=chance.one(("100steps", "2ksteps", "1epochs", "600Gtok", "1000seq")),
            batch=self.number(chance.one((8, 16)), "seq"),
            optim=chance.one((optim, f"assumed({optim})")),
            schedule=chance.one(
                ("", "cosine(warmup: 10steps, min: 0)", "constant(warmup: 2steps)")
            ),
            seed=chance.one(("", "7")),
            augment=chance.one(("", "", "jpeg(quality: 75..100)")),
            checkpoint=chance.one(("", "", "vit.blocks")),
        )

    def mode(self, name: str, verb: str = "") -> str:
        chance = self.chance
        return self.block(
            f"{verb}mode {name}",
            layout="chat",
            batch=chance.one(("1..4", "1", "1..8")),
            prompt=chance.one(("..1024tok", "..lm.context - 64tok", "..512tok")),
            new=self.number(chance.one((64, 16)), "tok"),
            sampling=chance.one(
                ("", "greedy()", "sample(temperature: 0.7, top_p: 0.9)", "beams(4, min_new: 2tok)")
            ),
            target=chance.one(("", "eager()", "aot(precision: f32)")),
        )

    def extras(self) -> list[str]:
        chance = self.chance
        blocks = []
        if chance.maybe(30):
            blocks.append("assert merger.out == lm.width\n")
        if chance.maybe(20):
            blocks.append("assert lm.context - 4tok >= 2 * 100tok\n")
        if chance.maybe(20):
            blocks.append(self.block("mode look : Features", of="vit", batch="1..2"))
        return blocks

    # variants

    def variant(self, base: str = "base", name: str = "case") -> str:
        """A recipe that changes another one, with every verb that a variant has."""
        changes = self.chance.some(self.change, 4, 1)
        return f"recipe {name} extends {base} {{\n{''.join(dict.fromkeys(changes))}}}\n"

    def change(self) -> str:
        chance = self.chance
        changes = (
            lambda: f"amend lm {{ depth = {self.number(4)} }}\n",
            lambda: 'amend tokens { add special more = "<more>" @ 300 }\n',
            lambda: f"amend encoder vit {{ act = {chance.one(ACTS)} }}\n",
            lambda: self.mode("answer", "replace "),
            lambda: self.mode("again", "add "),
            lambda: "amend layout caption { add text(t) -> loss(t eos) }\n",
            lambda: f"amend stage {self.stages[-1]} {{ seed = 3 }}\n",
            lambda: f"amend stage {self.stages[-1]} {{ optim = assumed(adamw(lr: 2e-5)) }}\n",
            lambda: "amend mode answer { new = 8tok drop target }\n",
            lambda: "amend layout chat { user(b) -> begin b }\n",
        )
        return chance.one(changes)()

    def importer(self, base: str = "base", name: str = "case") -> str:
        """A recipe that takes parts of another one and has stages of its own."""
        blocks = ["tokens", "image", "vit", "merger", "lm", "caption", "chat"]
        blocks += ["video"] if self.has_video else []
        blocks += self.between
        self.stages.clear()
        stage = self.stage("tune", ["merger"])
        return (
            f"recipe {name} {{\nlanguage = 1\nimport {', '.join(blocks)} from {base}\n"
            f"{stage}{self.mode('answer')}}}\n"
        )
