"""A session: everything that the steps of one run share, loaded once and passed on as one argument."""

import reprlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from longrope.data import Preprocess, Texts, check_sources, load_texts
from longrope.errors import DryRunEnd, RecipeError
from longrope.evaluation.recording import describe_choices, record_provenance
from longrope.models import LanguageModel, open_model
from longrope.pipeline.callbacks import Callbacks
from longrope.pipeline.progress import WorkDone
from longrope.recipe import Recipe
from longrope.runs.provenance import record_rope
from longrope.runs.run_dir import RunDir

LOADING = ("device", "dtype", "compiled", "rope_table", "trained_window")  # settings of open_model


@dataclass(frozen=True)
class Session:
    """One run of this process.

    Attributes:
        recipe: what is to be done.
        run: where everything is written.
        model: the current model; a training changes its weights in place.
        texts: what is searched, tuned and measured on.
        callbacks: called as the run proceeds.
        preprocess: the name of the function that every row of the texts went through, if one did.
        dry_run: stop before anything is written.
        loading_seconds: that the model took to load.
    """

    recipe: Recipe
    run: RunDir
    model: LanguageModel
    texts: Texts
    callbacks: Callbacks = field(default_factory=Callbacks)
    preprocess: str = ""
    dry_run: bool = False
    loading_seconds: float = 0.0

    @classmethod
    def load(
        cls,
        recipe: Recipe,
        run: RunDir,
        callbacks: Callbacks | None = None,
        preprocess: Preprocess | None = None,
        *,
        dry_run: bool = False,
        check: Callable[["Session"], None] = lambda _: None,
    ) -> "Session":
        """Load the texts and the model of a recipe, each row of the texts through ``preprocess`` (see ``load_texts``).

        Args:
            recipe: of the run.
            run: its directory.
            callbacks: called as the run proceeds.
            preprocess: a function that every row of the texts goes through.
            dry_run: stop before anything is written.
            check: called with the session before the weights are loaded, its model an outline (see ``open_model``);
                what it raises ends the command.

        Raises:
            RunError: another recipe began the run, or the same with another ``preprocess``; nothing is loaded.
            ModelError, TextsError: the model or the texts cannot be loaded.
        """
        name = name_function(preprocess)
        run.check(recipe, name)
        callbacks = callbacks or Callbacks()

        def check_outline(outline: LanguageModel, texts: Texts) -> None:
            check(cls(recipe, run, outline, texts, callbacks, name, dry_run))

        model, texts, seconds = load_inputs(recipe, callbacks, preprocess, check_outline)
        return cls(recipe, run, model, texts, callbacks, name, dry_run, seconds)

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Hold the run directory, bound to the recipe, with the geometry and the provenance written.

        Raises:
            DryRunEnd: the run is only estimated.
            RunError: another process holds it, or another recipe began it.
        """
        if self.dry_run:
            raise DryRunEnd
        with self.run.locked():
            self.run.bind(self.recipe, self.preprocess)
            record_rope(self.run, self.model.spec, self.recipe.target_tokens)
            record_provenance(self.run, self.model)
            yield

    @property
    def tunes(self) -> bool:
        """Whether a stage of the run trains weights."""
        return any(stage.kind == "tune" for stage in self.recipe.stages)

    def report(self, message: str) -> None:
        """Pass a message to the callbacks."""
        self.callbacks.on_step(message)

    def with_model(self, model: LanguageModel) -> "Session":
        """This session with another model, such as the tuned one."""
        return replace(self, model=model)


def name_function(preprocess: Preprocess | None) -> str:
    """What a run remembers of the function that the texts went through: its name, by which nobody loads it.

    Raises:
        RecipeError: it has no name that tells it from others, so a run could go on with another one.
    """
    name = getattr(preprocess, "__qualname__", "<no name>") if preprocess else ""
    if name.endswith(">"):
        raise RecipeError(
            f"preprocess is {reprlib.repr(preprocess)}.",
            "A run remembers the function by its name, so that it is resumed with the same one.",
            "Give a function that is defined by def.",
        )
    return f"{preprocess.__module__}:{name}" if preprocess else ""


class Inputs(NamedTuple):
    """A model and texts, with the seconds that the model took to load."""

    model: LanguageModel
    texts: Texts
    loading_seconds: float


def load_inputs(
    recipe: Recipe,
    callbacks: Callbacks,
    preprocess: Preprocess | None = None,
    check: Callable[[LanguageModel, Texts], None] = lambda *_: None,
) -> Inputs:
    """The texts and the model of a recipe; what was loaded is reported.

    The weights, which take longest, are loaded last: ``check`` is called before them, with the model's outline.
    """
    _check_files(recipe)
    callbacks.on_step(f"open {recipe.model}")
    opened = open_model(recipe.model, **loading_choices(recipe))
    callbacks.on_step(f"read {', '.join([*recipe.data, *recipe.measure_data])}")
    texts = load_texts(
        recipe.data,
        opened.outline.tokenizer,
        measure=recipe.measure_data,
        weights=recipe.data_weights,
        text_field=recipe.text_field,
        encoding=recipe.encoding,
        preprocess=preprocess,
        on_read=lambda count: callbacks.on_progress(WorkDone("read texts", count, 0, "bytes")),
    )
    longest = max((recipe.target_tokens, *recipe.measure.lengths))
    for line in texts.lines(longest) if longest > 1 else texts.report.lines():
        callbacks.on_step(line)
    check(opened.outline, texts)
    callbacks.on_step(f"load {recipe.model}")
    began = time.perf_counter()
    model = opened.load()
    seconds = time.perf_counter() - began
    callbacks.on_step("; ".join(describe_choices(model)))
    return Inputs(model, texts, seconds)


def loading_choices(recipe: Recipe) -> dict[str, Any]:
    """The settings of a recipe that say how a model is loaded, as arguments of ``open_model``."""
    return {name: getattr(recipe, name) for name in LOADING}


def _check_files(recipe: Recipe) -> None:
    """Refuse texts, factors and questions that are not there (raises TextsError, RecipeError)."""
    check_sources((*recipe.data, *recipe.measure_data))
    named = {"factors": recipe.factors, "measure.qa_data": (recipe.measure.qa_data,)}
    named["measure.evaluator_factors"] = (recipe.measure.evaluator_factors,)
    for key, path in ((key, path) for key, paths in named.items() for path in paths if path):
        if not Path(path).exists():
            raise RecipeError(f"{key} names {path}, which does not exist.", "A file is needed.", "Check the path.")
