"""Walks a recipe's stages: which are trained, from which weights, to which checkpoint.

A run is a folder (see `checkpoint.py`). Everything that decides the weights stands in the settings
of its checkpoints: the recipe's values, the run's options and the content of the data. A run that
is cut off at any moment and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..blocks.input.writing import vocabulary_file
from ..compiler.graph import Program
from ..compiler.lower import PRECISIONS, initial
from ..compiler.pipeline import for_training
from ..compiler.plan import Plan, by_part, plan
from ..compiler.precision import coarsest, in_words
from ..compiler.text import text_of_methods
from ..dsl.diagnostics import nearest
from ..dsl.kinds import Amount
from ..dsl.recipe import Recipe
from ..dsl.stages import Falling, Stage, Stairs
from . import checkpoint
from .checkpoint import Checkpoint, Progress
from .data import Bad, Mixture, Source, bind, open_source
from .drops import Drops
from .features import Store
from .feed import Ahead, Feed
from .foreseen import StepError
from .gradients import threads
from .listening import Listener, Silence
from .optim import Schedule
from .options import Backend, Choice, Options
from .predictions import predict
from .report import BadFile, Metrics, MetricsFile, Page, StageRow, curves, write_report
from .resources import resources
from .samples import PairSamples, Samples
from .stopping import Stop, finishing_the_step
from .toolchain import cache_folder, code_in
from .training_stage import Code, NotFiniteError, StageRun


class TrainingError(Exception):
    """A run cannot start or go on; says what to do."""


class StoppedError(Exception):
    """The user has stopped the run; it was saved, and can be resumed."""

    exit_code = 130

    def __init__(self, saved: Checkpoint) -> None:
        super().__init__(
            f"stopped after step {saved.progress.step} of stage {saved.progress.stage}"
        )
        self.saved = saved


@dataclass(frozen=True, slots=True)
class Result:
    """What a run left behind."""

    folder: Path
    weights: Path
    """Every parameter by the recipe's names, as safetensors."""
    report: Path
    bad: tuple[Bad, ...]


def train(
    recipe: Recipe,
    data: Sequence[str],
    out: Path,
    *,
    stages: Sequence[str] = (),
    weights: Mapping[str, Tensor] | None = None,
    held_out: Path | None = None,
    beside: Sequence[Path] = (),
    resume: bool = False,
    force: bool = False,
    options: Options | None = None,
    listener: Listener | None = None,
) -> Result:
    """Train the stages (all of them by default), each from where the recipe says.

    `data` holds paths, or `NAME=PATH` for one of the names that the stages draw from. The first
    stage starts from `weights`; what they lack starts as the recipe declares it, so that `{}` is a
    fresh start. None is that too, unless the recipe names published weights to start from.

    The report shows what the model says to a few samples of `held_out`, or of the last stage's
    data. A file that the recipe names, its tokenizer, is looked for in the recipe's folder, with
    the data, and in the folders `beside`; the run keeps a copy.

    A run that was cut off goes on with `resume`; `force` lets it go on although the recipe, the
    options or the data have changed since.

    Raises TrainingError, DataError, ResourceError or CheckpointError with what to do about it,
    RecipeError when the recipe is wrong, and StoppedError after Ctrl-C.
    """
    options = options or Options()
    choice = Choice.of(options)
    recipe = overridden(recipe, options)
    chosen = _chosen(recipe, stages)
    drawn = {name: list(stage.data.shares) for name, stage in recipe.stages.items()}
    paths = bind(
        needed=chain.from_iterable(drawn[name] for name in chosen),
        known=chain.from_iterable(drawn.values()),
        given=data,
    )
    opened = {path: open_source(path) for path in dict.fromkeys(paths.values())}
    shown = open_source(held_out) if held_out else None
    folders = (path if path.is_dir() else path.parent for path in opened)
    where = resources(recipe, *folders, *beside, out)
    if checkpoint.checkpoints(out) and not resume:
        raise TrainingError(f"{out} holds a run: go on with --resume, or choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    vocabulary = keep_vocabulary(recipe, where, out)
    with finishing_the_step() as stop:
        walk = _Walk(
            recipe=recipe,
            plan=plan(recipe),
            sources={name: opened[path] for name, path in paths.items()},
            resources=where,
            vocabulary=vocabulary,
            out=out,
            start=weights,
            options=options,
            choice=choice,
            force=force,
            listener=listener or Silence(),
            stop=stop,
        )
        if choice.lacking:
            walk.notice(f"steps are not compiled here, and take longer: {choice.lacking}")
        for name in chosen:
            end = walk.stage(name, last=name == chosen[-1])
    return walk.finish(chosen, end, shown)


def overridden(recipe: Recipe, options: Options) -> Recipe:
    """The recipe with what the options change in every stage."""
    changes = {
        "stop": options.steps and Amount(value=options.steps, unit="steps"),
        "batch": options.batch,
        "precision": options.precision,
        "seed": options.seed,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    stages = {name: stage.model_copy(update=given) for name, stage in recipe.stages.items()}
    return recipe.model_copy(update={"stages": stages})


def settings(
    recipe: Recipe,
    stage: str,
    options: Options,
    backend: Backend,
    vocabulary: str,
    sources: Mapping[str, Source],
) -> dict[str, Any]:
    """All that decides what a stage makes of the weights that it starts from.

    `vocabulary` is the digest of the tokenizer's file. Of the data the records count; nobody wants
    to wait until every picture is read for that.
    """
    said = recipe.model_dump(
        mode="json",
        by_alias=True,
        include={"tokens", "inputs", "encoders", "adapters", "lm", "layouts", "objectives"},
    )
    used = recipe.stages[stage]
    return {
        **said,
        "layouts": {name: said["layouts"][name] for name in used.layouts},
        stage: used.model_dump(mode="json", by_alias=True),
        "vocabulary": vocabulary,
        "workers": options.workers,
        "backend": backend,
        "device": options.device,
        "data": {name: sources[name].digest for name in used.data.shares},
    }


def schedule_of(stage: Stage) -> Schedule:
    """The rate of a stage, step by step."""
    form = stage.schedule
    return Schedule(
        form.call,
        peak=stage.optim.lr,
        warmup=form.warmup,
        ratio=form.warmup_ratio or 0.0,
        start=form.warmup_from,
        minimum=form.min if isinstance(form, Falling) else 0.0,
        whole=isinstance(form, Falling) and form.over == "stage",
        stairs=tuple(zip(form.at, form.factors, strict=True)) if isinstance(form, Stairs) else (),
    )


def share_done(stop: Amount, progress: Progress, epoch: int) -> float:
    """How much of a stage is behind, from 0 to 1; `epoch` is its length in samples."""
    reached = {
        "steps": progress.step,
        "seq": progress.sequences,
        "tok": progress.tokens,
        "epochs": progress.position / epoch,
    }
    return min(1.0, reached[stop.unit] / stop.value)


class _Walk:
    """A run while it goes on."""

    def __init__(
        self,
        *,
        recipe: Recipe,
        plan: Plan,
        sources: Mapping[str, Source],
        resources: Path | None,
        vocabulary: str,
        out: Path,
        start: Mapping[str, Tensor] | None,
        options: Options,
        choice: Choice,
        force: bool,
        listener: Listener,
        stop: Stop,
    ) -> None:
        self._recipe = recipe
        self._plan = plan
        self._sources = sources
        self._resources = resources
        self._vocabulary = vocabulary
        self._out = out
        self._start = start
        self._options = options
        self._choice = choice
        self._force = force
        self._listener = listener
        self._stop = stop
        self._metrics = MetricsFile(out / "metrics.jsonl")
        self._bad = BadFile(out / "bad_samples.jsonl")
        self._notices: list[str] = []

    def stage(self, name: str, *, last: bool) -> Checkpoint:
        """Train one stage to its end, from its own checkpoint if there is one."""
        stage = self._recipe.stages[name]
        program = for_training(self._recipe, name)
        own = self._newest(name)
        begun = own.manifest.settings["backend"] if own else None
        backend = self._choice.for_stage(begun)
        said = settings(self._recipe, name, self._options, backend, self._vocabulary, self._sources)
        if own:
            self._expect_same(own, said)
            if own.progress.finished:
                self.notice(f"{name} is done already, after {own.progress.step:,} steps")
                return own
            if backend != self._choice.backend:
                self.notice(f"{name} goes on by {backend}, as it was begun")
            weights, state, progress = own.weights(), own.optimizer(), own.progress
        else:
            weights, state = self._entry(name, program)
            progress = Progress(stage=name)
        compiled, ahead = (backend == one for one in ("inductor", "aot"))
        compares = "pairs" in program.spec
        workers = 1 if compares or ahead else self._options.workers
        if workers < self._options.workers:
            why = "compares the pairs of a whole batch" if compares else "is compiled ahead of time"
            self.notice(f"{name} {why}: one worker computes it")
        store = Store(self._out / "features", name, self.notice) if stage.cache else None
        run = StageRun(
            program,
            self._plan[name],
            weights,
            device=self._options.device,
            workers=workers,
            compiled=compiled,
            code=self._code(name, program) if ahead else None,
            store=store,
        )
        run.optimizer.load(state)
        del weights, state  # the copies that learn are in the run: 12 bytes for each of them
        if own:
            own.restore_random()
        else:
            torch.manual_seed(_number(stage.seed, name))
        self._metrics.cut(name, progress.step)
        code: AbstractContextManager[None] = nullcontext()
        if compiled:
            code = code_in(cache_folder("train", text_of_methods(program.methods)))
        kind = PairSamples if compares else Samples
        samples = kind(
            program.spec,
            stage,
            self._resources,
            seed=f"{stage.seed}/{name}",
            workers=workers,
            device=self._options.device,
        )
        drops = Drops(program.methods, f"{stage.seed}/{name}")
        try:
            with code:
                return self._steps(name, run, samples, drops, progress, said, last=last)
        finally:
            run.close()
            if run.recompiles:
                times = f"{run.recompiles} time{'s' if run.recompiles > 1 else ''}"
                self.notice(
                    f"{name}: its step was compiled {times} more, for sizes that the code should "
                    "have been free in. Please report it; --backend eager trains without a compiler"
                )
            if store:
                self.notice(f"{name}: {store}")

    def _code(self, name: str, program: Program) -> Code:
        """The compiled methods of a stage, for weights that are still to come."""
        from .from_stage import methods_of, stage_artefact
        from .stage_job import StageJob

        if torch.device(self._options.device).type != "cpu":
            raise TrainingError("a step is compiled ahead of time for the CPU: leave out --device")
        job = StageJob.of(self._recipe.name, program, self._plan[name])
        return partial(methods_of, stage_artefact(job, self._options.artefacts, notice=self.notice))

    def _steps(
        self,
        name: str,
        run: StageRun,
        samples: Samples,
        drops: Drops,
        progress: Progress,
        said: dict[str, Any],
        *,
        last: bool,
    ) -> Checkpoint:
        stage, options = self._recipe.stages[name], self._options
        schedule = schedule_of(stage)
        sources = {share: self._sources[share] for share in stage.data.shares}
        mixture = Mixture(
            sources,
            stage.data.shares,
            seed=f"{stage.seed}/{name}",
            step=stage.batch,
            apart=frozenset(stage.apart),
        )
        feed = Feed(
            mixture,
            samples.prepare,
            samples.collate,
            batch=stage.batch,
            window=samples.window,
            memory=0 if samples.varies else options.memory,
            loaders=options.loaders,
        )
        done = share_done(stage.stop, progress, mixture.epoch)
        self._listener.stage(name, stage.stop, done)
        began = time.perf_counter() - progress.seconds
        waited = 0.0
        if run.backend == "inductor":
            self._listener.notice(f"compiling the step of stage {name} ...")
        with Ahead(feed.batches(progress.position)) as batches, threads(len(run.replicas)):
            for batch in batches:
                self._bad.add(batch.bad)
                rate = schedule.rate(progress.step, done, progress.warm)
                fed = drops.into(batch.shards, batch.position)
                try:
                    losses, norm = self._step(name, run, fed, rate)
                except NotFiniteError as error:
                    where = f"stage {name}, step {progress.step + 1}"
                    raise TrainingError(
                        f"{where}: {error}; samples: {_some(batch.names)}"
                    ) from error
                if run.compiling > waited:
                    began += run.compiling - waited
                    if run.backend == "inductor":
                        self._listener.notice(f"compiled in {run.compiling - waited:.0f} s")
                    waited = run.compiling
                progress = Progress(
                    stage=name,
                    step=progress.step + 1,
                    position=batch.position,
                    sequences=progress.sequences + batch.sequences,
                    tokens=progress.tokens + batch.tokens,
                    warm=progress.warm,
                    seconds=time.perf_counter() - began,
                )
                done = share_done(stage.stop, progress, mixture.epoch)
                finished, stopped = done >= 1.0, self._stop.asked
                warm = done if progress.step == schedule.warmup else progress.warm
                progress = progress.model_copy(update={"warm": warm, "finished": finished})
                metrics = Metrics.of(progress, losses, rate, norm)
                self._metrics.append(metrics)
                self._stop.steps = True
                self._listener.step(metrics, done)
                if finished or stopped or progress.step % options.save_every == 0:
                    saved = self._save(run, progress, said)
                    self._stop.steps = not finished
                    if stopped and not (finished and last):
                        raise StoppedError(saved)
                    if finished:
                        return saved
        raise AssertionError("a feed has no end")

    def _step(
        self, name: str, run: StageRun, fed: Sequence[Mapping[str, Tensor]], rate: float
    ) -> tuple[dict[str, float], float]:
        """One step; eager takes over from a compiler that fails, and that nobody has asked for."""
        try:
            return run.step(fed, rate)
        except StepError as error:
            if self._choice.asked:
                raise
            self.notice(
                f"{name} is trained by eager, which may take longer: {error.why}. Please report "
                f"it; --backend {run.backend} insists on compiled steps, and stops here"
            )
        run.compute_by_eager()
        return run.step(fed, rate)

    def finish(self, chosen: Sequence[str], end: Checkpoint, shown: Source | None) -> Result:
        """Write the weights where they are looked for, and the report."""
        weights, report = self._out / "weights.safetensors", self._out / "report.html"
        checkpoint.write_weights(weights, end.weights())
        metrics, bad = self._metrics.read(), self._bad.read()
        picture = curves(metrics)
        (self._out / "loss.png").write_bytes(picture)
        page = self._page(chosen, metrics, bad)
        chats = self._recipe.chats.items()
        told = next((one for one, mode in chats if mode.after in (None, chosen[-1])), None)
        if told:
            last = self._recipe.stages[chosen[-1]]
            source = shown or self._sources[next(iter(last.data.shares))]
            dtype = PRECISIONS[coarsest(last.precision)]
            page = replace(
                page,
                predictions=predict(self._recipe, told, weights, source, self._resources, dtype),
                predicted_from=f"{source.name}, " + ("held out" if shown else "trained on"),
            )
        write_report(report, page, picture)
        return Result(self._out, weights, report, tuple(bad))

    def _page(self, chosen: Sequence[str], metrics: list[Metrics], bad: list[Bad]) -> Page:
        ended = {
            one.progress.stage for one in checkpoint.checkpoints(self._out) if one.progress.finished
        }
        rows = [
            StageRow(
                stage.name,
                trained=by_part(stage.trained),
                frozen=by_part(stage.coverage.frozen),
                finished=stage.name in ended,
            )
            for stage in self._plan.stages
        ]
        first = self._recipe.stages[chosen[0]]
        return Page(
            title=self._recipe.name,
            facts={
                "parameters": f"{self._plan.total:,}",
                "precision": in_words(first.precision),
                "seed": str(first.seed),
                "workers": str(self._options.workers),
                "torch": checkpoint.versions()["torch"],
            },
            stages=rows,
            metrics=metrics,
            bad=bad,
            notices=self._notices,
            assumed=self._plan.assumed,
        )

    def _save(self, run: StageRun, progress: Progress, said: dict[str, Any]) -> Checkpoint:
        saved = checkpoint.save(
            self._out,
            recipe=self._recipe.name,
            settings=said | {"backend": run.backend},
            progress=progress,
            weights=run.result() if progress.finished else run.weights,
            optimizer=run.optimizer.state(),
        )
        checkpoint.prune(self._out, self._options.keep)
        return saved

    def _newest(self, stage: str) -> Checkpoint | None:
        every = checkpoint.checkpoints(self._out)
        return next((one for one in reversed(every) if one.progress.stage == stage), None)

    def _entry(self, name: str, program: Program) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weights that a stage begins with, and the state of the optimizer before it."""
        after = self._recipe.stages[name].after
        end = self._newest(after) if after else None
        if end and end.progress.finished:
            self._announce(name, end.progress.stage)
            handed = self._plan[name].handed
            state = {k: v for k, v in end.optimizer().items() if k.rpartition("/")[0] in handed}
            return completed(end.weights(), program, self._options.seed or 0), state
        if self._start is None and after:
            raise TrainingError(
                f"stage {name} goes on after {after}, and {self._out} holds no end of {after}: "
                f"train that first, or say with --weights what to start from"
            )
        if self._start is None and self._recipe.weights:
            named = self._recipe.weights.repositories
            raise TrainingError(
                f"{self._recipe.name} starts from {named}: say where that lies with --weights, or "
                f"start from random numbers with --weights fresh"
            )
        if after:
            self.notice(f"{name} starts from the given weights, without {after}'s optimizer state")
        return completed(self._start or {}, program, self._options.seed or 0), {}

    def _expect_same(self, own: Checkpoint, said: dict[str, Any]) -> None:
        """Refuse to go on with what a checkpoint was not made by."""
        changed = checkpoint.changes(own.manifest.settings, said)
        if changed and not self._force:
            lines = "".join(f"\n  {line}" for line in changed)
            raise TrainingError(
                f"{own.folder} was made by other settings; --force goes on all the same:{lines}"
            )
        for line in changed:
            self.notice(f"changed since {own.folder.name}: {line}")
        for line in checkpoint.changes(own.manifest.versions, checkpoint.versions()):
            self.notice(f"since {own.folder.name}, another {line}: the bits may differ")

    def _announce(self, name: str, after: str) -> None:
        """Say which of the optimizer's state goes on, and which is given up."""
        planned = self._plan[name]
        kept = {one: param for one, param in planned.trained.items() if one in planned.handed}
        merged = self._plan[after].coverage.added
        frozen = {one: param for one, param in planned.given_up.items() if one not in merged}
        for parameters, fate in (
            (kept, "goes on"),
            (frozen, "is given up: frozen from here on"),
            (merged, "is given up: low-rank changes, which are part of their matrices now"),
        ):
            if parameters:
                numbers = ", ".join(f"{part} {n:,}" for part, n in by_part(parameters).items())
                self.notice(f"{name}: the optimizer's state from {after} {fate} ({numbers})")

    def notice(self, text: str) -> None:
        """Tell who listens, and the report."""
        self._notices.append(text)
        self._listener.notice(text)


def keep_vocabulary(recipe: Recipe, where: Path | None, out: Path) -> str:
    """Copy the tokenizer's file into the run, unless it ships with triptych; its digest."""
    assert recipe.tokens
    file = vocabulary_file(recipe.tokens.tokenizer.model_dump(), where)
    content = file.read_bytes()
    if where is not None and where != out:
        kept = out / file.relative_to(where)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def completed(given: Mapping[str, Tensor], program: Program, seed: int) -> dict[str, Tensor]:
    """All weights of a program: those given, and the others as they are declared."""
    return {
        name: given[name] if name in given else initial(name, param, seed)
        for name, param in program.parameters.items()
    }


def _chosen(recipe: Recipe, stages: Sequence[str]) -> list[str]:
    if not recipe.stages:
        raise TrainingError(f"{recipe.name} has no stages to train")
    for name in stages:
        if name not in recipe.stages:
            hint = nearest(name, recipe.stages) or ", ".join(recipe.stages)
            raise TrainingError(f"{recipe.name} has no stage {name!r}; there is {hint}")
    return [name for name in recipe.stages if not stages or name in stages]


def _number(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
