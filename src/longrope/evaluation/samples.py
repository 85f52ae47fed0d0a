"""What scores are made of: the loss of every token, the answer to every key.

Two methods are compared pair by pair on the same windows and keys, so what each of them made of these is kept and no
window goes through a model twice.
"""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope import parallel
from longrope.errors import RunError
from longrope.factors import FactorTable
from longrope.models import LanguageModel
from longrope.records import Score
from longrope.rundir import RunDir


class Samples:
    """Samples by what they were made of: in a run directory, or without one in memory for as long as this lives.

    Four bytes a token: a method that is measured on a million tokens takes 4 MB for each length.
    """

    def __init__(self, run: RunDir | None = None) -> None:
        """Keep them in this run directory."""
        self.run = run
        self._here: dict[str, NDArray[Any]] = {}

    def get(self, kind: str, made_of: tuple[str, ...], make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return what is kept, or make it and keep it.

        Args:
            kind: ``losses`` or ``answers``; begins the name of the file.
            made_of: all that decides them: model, method, factors, texts.
            make: called by all processes where nothing is kept.

        Raises:
            RunError: the file is damaged.
        """
        name = f"{kind}-{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]}"
        if self.run is None:
            if name not in self._here:
                self._here[name] = make()
            return self._here[name]
        path = self.run.samples(name)
        kept = parallel.lead(partial(_read, path))
        if kept is None:
            kept = make()
            parallel.lead(partial(self.run.write_array, path, kept))
        return kept


def _read(path: Path) -> NDArray[Any] | None:
    if not path.exists():
        return None
    try:
        return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError) as error:
        raise RunError(
            f"{path} cannot be read ({error}).", "A numpy array is needed.", "Remove it; it is made again."
        ) from None


def begin_score(
    model: LanguageModel, table: FactorTable | None, length: int, texts: str, *, method: str, seed: int, seconds: float
) -> Callable[..., Score]:
    """What all scores of one measurement share; call it with the metric, its value, interval and counts."""
    return partial(
        Score,
        method=method,
        context_tokens=length,
        seed=seed,
        model=model.name,
        texts_fingerprint=texts,
        factors_fingerprint=table.fingerprint if table else "",
        seconds=round(seconds, 3),
    )
