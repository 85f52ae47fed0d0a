"""The sample cache: made once, kept to the bit, and never taken for something else."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from measuring import make_context

from longrope.data import TokenText
from longrope.errors import RunError
from longrope.evaluation.perplexity import cached_losses
from longrope.evaluation.samples import Arrays, Identity, SampleCache
from longrope.labels import Source
from longrope.models import LanguageModel
from longrope.rope import baseline_factors
from longrope.runs.identity import hash_inputs
from longrope.runs.records import Score
from longrope.runs.run_dir import RunDir


def test_samples_are_made_once_and_kept_to_the_bit(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> Arrays:
        made.append(1)
        losses = np.random.default_rng(len(made)).normal(size=(3, 5)).astype(np.float32)
        return {"losses": losses, "answers": np.asarray(["yes", "", "größer"])}

    for cache, again in ((SampleCache(), None), (SampleCache(RunDir(tmp_path)), SampleCache(RunDir(tmp_path)))):
        made.clear()
        first, seconds = cache.get("losses", ("a", "b"), make)
        assert set(first) == {"losses", "answers"}
        assert seconds > 0
        second, same_seconds = (again or cache).get("losses", ("a", "b"), make)
        assert all((second[name] == first[name]).all() for name in first)
        assert second["losses"].dtype == np.float32
        assert same_seconds == seconds
        assert len(made) == 1
        for kind, key in (("losses", ("ab", "")), ("answers", ("a", "b"))):
            assert not (cache.get(kind, key, make)[0]["losses"] == first["losses"]).all()
        assert len(made) == 3


def test_a_damaged_file_of_samples_is_reported(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    SampleCache(run).get("losses", ("a",), lambda: {"losses": np.zeros(3)})
    [path] = (tmp_path / "samples").iterdir()
    for content in (path.read_bytes()[:-1], b"", b"no archive"):
        path.write_bytes(content)
        with pytest.raises(RunError, match="Remove it"):
            SampleCache(run).get("losses", ("a",), lambda: {"losses": np.zeros(3)})


@pytest.mark.parametrize("change", ["method", "factors", "length", "text", "model", "dtype", "documents"])
def test_samples_of_something_else_are_not_taken(
    change: str, model: LanguageModel, text: TokenText, tmp_path: Path
) -> None:
    """Windows of 32 and of 64 tokens hold the same tokens here, in other rows."""
    windows, cache = text.windows(64, 2), SampleCache(RunDir(tmp_path))
    ntk, yarn = (baseline_factors(model.spec, name, 128) for name in ("ntk", "yarn"))
    first = make_context(model, ntk, windows, method="ntk", cache=cache)
    other = {
        "method": replace(first, subject=replace(first.subject, method="tuned")),
        "factors": replace(first, subject=replace(first.subject, table=yarn)),
        "length": replace(first, length=32),
        "text": replace(first, windows=windows[::-1].copy()),
        "model": replace(first, subject=replace(first.subject, model=replace(model, name="another"))),
        "dtype": first,
        "documents": replace(first, documents=np.arange(windows.size, dtype=np.int32).reshape(windows.shape)),
    }[change]
    cached_losses(first, *first.divided())
    try:
        if change == "dtype":
            model.network.double()
        losses, _ = cached_losses(other, *other.divided())
        fresh, _ = cached_losses(replace(other, cache=SampleCache()), *other.divided())
    finally:
        model.network.float()
    assert all((losses[name] == fresh[name]).all() for name in losses)
    assert len(list((tmp_path / "samples").iterdir())) == 2


def test_an_identity_is_made_of_fields_of_a_score() -> None:
    """A recorded score has one, of which the metric, its value and its counts are no part."""
    score = Score("perplexity", 2.0, 1.0, 3.0, "yarn", 64, 126, 2, 5, "pico", "a" * 16, "b" * 16, 0.5)
    assert Identity.of(score) == Identity(Source("yarn"), 64, 5, "pico", "a" * 16, "b" * 16)
    assert Identity.of(replace(score, metric="passkey", value=1.0, seconds=2.0)) == Identity.of(score)
    for change in ({"method": "pi"}, {"context_tokens": 32}, {"seed": 6}, {"model": "x"}, {"texts_fingerprint": "c"}):
        assert Identity.of(replace(score, **change)) != Identity.of(score)


def test_an_interrupted_measurement_goes_on_where_it_was(
    model: LanguageModel, text: TokenText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows that were read are not read again; the losses are those of one go, the seconds those of both."""
    monkeypatch.setattr("longrope.evaluation.samples.KEPT_AFTER", -1.0)
    windows, read = text.windows(64, 5), list[int]()

    def passed(count: int) -> None:
        read.append(count)
        if sum(read) == 3:
            raise KeyboardInterrupt

    context = make_context(model, None, windows, method="none", cache=SampleCache(RunDir(tmp_path)))
    whole, _ = cached_losses(replace(context, cache=SampleCache()), *context.divided())
    monkeypatch.setattr("longrope.evaluation.perplexity.TOKENS_PER_BATCH", 64)
    monkeypatch.setattr("longrope.evaluation.perplexity._rows.__defaults__", (64,))
    with pytest.raises(KeyboardInterrupt):
        cached_losses(replace(context, passed=passed), *context.divided())
    (path,) = (tmp_path / "samples").iterdir()
    assert path.name.endswith("-unfinished.npz")
    kept = dict(np.load(path))
    assert (int(kept["done"]), len(kept["losses"])) == (2, 2)
    again: list[int] = []
    found, seconds = cached_losses(replace(context, passed=again.append), *context.divided())
    assert again == [2, 1, 1, 1]
    assert seconds > float(kept["seconds"]) > 0
    assert all(np.allclose(found[name], whole[name], atol=1e-5) for name in whole)
    assert [other.name.endswith("-unfinished.npz") for other in (tmp_path / "samples").iterdir()] == [False]


def test_what_an_interrupted_measurement_kept_of_something_else_is_refused(tmp_path: Path) -> None:
    def make(first: int, last: int) -> Arrays:
        return {"losses": np.arange(first, last)}

    run = RunDir(tmp_path)
    cache = SampleCache(run)
    assert cache.grow("losses", ("a",), 5, 2, make)["losses"].tolist() == [0, 1, 2, 3, 4]
    begun = {"losses": np.asarray([7, 8]), "done": np.asarray(2), "seconds": np.asarray(1.5), "key": np.asarray(["a"])}
    name = f"losses-{hash_inputs(('a',))}-unfinished"
    run.write_samples(name, begun)
    found, seconds = cache.get("losses", ("a",), lambda: cache.grow("losses", ("a",), 5, 2, make))
    assert (found["losses"].tolist(), seconds >= 1.5) == ([7, 8, 2, 3, 4], True)
    assert run.read_samples(name) is None
    run.write_samples(name, begun | {"key": np.asarray(["b"])})
    with pytest.raises(RunError, match="something else"):
        cache.grow("losses", ("a",), 5, 2, make)


def test_short_work_is_done_in_ever_larger_parts_and_slow_work_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock: parts that take less than a quarter of the time after which samples are kept are doubled."""
    now, parts = [0.0], list[int]()
    monkeypatch.setattr("longrope.evaluation.samples.time.perf_counter", lambda: now[0])

    def make(first: int, last: int, seconds: float) -> Arrays:
        parts.append(last - first)
        now[0] += seconds * (last - first)
        return {"losses": np.arange(first, last)}

    for seconds, expected in ((0.1, [1, 2, 4, 8, 5]), (4.0, [1] * 20), (1.0, [1, 2, 4, 4, 4, 4, 1])):
        parts.clear()
        cache = SampleCache(RunDir(tmp_path))
        made = cache.grow("losses", (str(seconds),), 20, 1, partial(make, seconds=seconds))
        assert (parts, made["losses"].tolist()) == (expected, list(range(20)))
    parts.clear()
    SampleCache().grow("losses", ("in memory",), 20, 1, partial(make, seconds=4.0))
    assert parts == [20], "nothing to keep it in"


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """A file that was being written, and one of a measurement that was finished and not cleaned up."""
    cache, name = SampleCache(RunDir(tmp_path)), f"losses-{hash_inputs(('a',))}-unfinished"
    cache.get("losses", ("a",), lambda: {"losses": np.zeros(3)})
    for left in (f"{name}.npz", f".{name}.npz.0123456789abcdef.partial.npz"):
        (tmp_path / "samples" / left).write_bytes(b"left")
    cache.get("losses", ("a",), lambda: {"losses": np.ones(3)})
    (kept,) = (tmp_path / "samples").iterdir()
    assert kept.name == f"losses-{hash_inputs(('a',))}.npz"
