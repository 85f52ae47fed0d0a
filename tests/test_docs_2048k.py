"""What docs/2048k.md, the README and the log say of Gemma-3-270M at 2,048k tokens is what the records hold."""

import json
from typing import Any

from documents import ROOT, lines, words

TUNED = "longrope-tuned"
RUN, WRONG = "gemma3-2048k", "gemma3-2048k-wrong-tokenizer"
PAGE, README, LOG = words("docs/2048k.md"), words("README.md"), words("docs/log.md")
LONGEST = 2**21
Scores = dict[tuple[str, str, int], dict[str, Any]]


def scores_of(run: str) -> Scores:
    """By method, metric and length."""
    return {(s["method"], s["metric"], s["context_tokens"]): s for s in lines(f"{run}/scores.jsonl")}


def count(scores: Scores, metric: str, length: int, method: str = TUNED) -> int:
    """How many were found."""
    return int(scores[method, metric, length]["num_windows"] * scores[method, metric, length]["value"] + 0.5)


def test_needles_and_passkeys_with_the_right_tokenizer() -> None:
    scores, places = scores_of(RUN), (2**17, 2**15, 2**12)
    own, original = ([count(scores, "prose-needle", at, method) for at in places] for method in (TUNED, "none"))
    assert f"finds {own[0]} of 60 needles in prose**, ten in each text; at 32,768 it finds {own[1]}, at 4,096" in PAGE
    assert f"at 4,096 {own[2]}. The original finds {original[1]} at 32,768 tokens, {original[2]} at 4,096 and" in PAGE
    assert original[0] == 0
    many, few = ([count(scores, "many-passkeys", at, method) for at in (2**15, 2**17)] for method in (TUNED, "none"))
    assert f"finds {many[0]} of 40 at 32,768 tokens and {many[1]} of 40 at 131,072 (the original 2 and 2)" in PAGE
    assert few == [2, 2]
    alone = [s for s in lines(f"{RUN}-passkeys/scores.jsonl") if s["metric"] == "passkey"]
    assert [(s["context_tokens"], s["value"], s["num_windows"]) for s in alone] == [(2**20, 1, 10), (2**12, 1, 10)]
    assert "At 1,048,576 tokens it finds all of 10 passkeys**, one in each text, as at 4,096 tokens" in PAGE
    assert "10 of 10 passkeys in texts of 1,048,576 tokens" in README
    assert f"and {own[0]} of 60 needles at 131,072" in README
    answers = [line for name in ("answers", "answers-hf") for line in lines(f"{RUN}/{name}.jsonl")]
    assert len(answers) == 9
    assert all(line["found"] and line["prompt_tokens"] > 1_098_000 for line in answers)
    assert "three of three questions about a document of 1.1 million tokens" in PAGE


def test_far_context_and_its_controls() -> None:
    """Shares of perplexity with far context as it is, shuffled, and of another text."""
    control = {(metric, at): s for (_, metric, at), s in scores_of(f"{RUN}-control").items()}

    def said(metric: str, at: int = 2**20, digits: int = 3) -> tuple[str, str]:
        score = control[metric, at]
        return f"{score['value']:.{digits}f}", f"{score['low']:.{digits}f}-{score['high']:.{digits}f}"

    own, ends = said("far-context")
    assert f"three windows have {own} ({ends}) of the perplexity that they have with 32,768" in PAGE
    scores = scores_of(RUN)
    assert f"with 131,072 tokens {scores[TUNED, 'far-context', 2**17]['value']:.3f}." in PAGE
    shuffled, ends = said("far-shuffled")
    assert f"(with it as it is, {shuffled}, {ends}, of that)" in PAGE
    assert f"loses {100 * (1 / float(shuffled) - 1):.0f} % of perplexity at 1,048,576 tokens" in PAGE
    assert f"and {100 * (1 / control['far-shuffled', 2**17]['value'] - 1):.1f} % at 131,072" in PAGE
    near = scores[TUNED, "last-tokens-32767", 2**15]["value"]
    assert f"({control['far-replaced-perplexity', 2**20]['value']:.2f} against {near:.2f})" in PAGE
    own, ends = said("far-context", digits=2)
    readme = f"the last 32,767 tokens is {own} times ({ends}) that with 32,768, and {said('far-shuffled', digits=2)[0]}"
    assert f"{readme} times that with the far part shuffled" in README


def test_short_texts_longer_texts_and_methods_without_training() -> None:
    scores, untrained = scores_of(RUN), scores_of(f"{RUN}-untrained")
    short = [scores[TUNED, "ratio-to-none", at]["value"] for at in (2**15, 2**12)]
    assert "{:.3f} of the original's at 32,768 tokens, {:.3f} at 4,096".format(*short) in PAGE
    own = untrained["critical", "far-context-original", 2**19]
    assert f"{own['value']:.3f} ({own['low']:.3f}-{own['high']:.3f}) of the perplexity that the original has" in PAGE
    trained = scores_of(f"{RUN}-control")["ntk-critical", "last-tokens-32767", 2**19]["value"]
    share = trained / untrained["critical", "last-tokens-32767", 2**19]["value"]
    assert f"trained, the model has {share:.2f} of the former" in PAGE
    apart = [scores_of(f"{RUN}-{name}") for name in ("untrained", "untrained-1024k", "before")]
    needles = [count(own, *key[1:], key[0]) for own in apart for key in own if key[1] == "prose-needle"]
    assert max(needles) == 24
    assert len(needles) == 13
    assert "no method finds more than 24 of the 60 needles untrained, from 131,072 tokens on." in PAGE
    assert min(at for own in apart for _, metric, at in own if metric == "prose-needle") == 2**17
    export = json.loads((ROOT / "results" / RUN / "export.json").read_text())
    assert f"by them, texts of {export['short_tokens']:,} tokens have" in PAGE
    assert f"have {export['perplexity_single'] / export['perplexity_original']:.3f} of the original's" in PAGE
    far = {line["tokens"]: line for line in lines(f"{RUN}/far.jsonl") if line["factors_window"] == line["tokens"]}
    ratios = [far[at]["whole"]["last"] / far[at]["near"]["last"] for at in (2**21, 2**22, 2**23)]
    said = "{:.3f} of near context's perplexity at 2,097,152 tokens, {:.3f} at 4,194,304 and {:.3f} at 8,388,608"
    assert said.format(*ratios) in PAGE


def test_what_the_missing_token_did() -> None:
    """The original without it and with it, and what training seemed to gain at short lengths."""
    with_it, without = scores_of(RUN), scores_of(WRONG)
    original = [scores["none", "prefix-perplexity", 2**12]["value"] for scores in (without, with_it)]
    assert "4,096 tokens is {:.2f} without it and {:.2f} with it".format(*original) in PAGE
    short = [scores[TUNED, "ratio-to-none", 2**12]["value"] for scores in (without, with_it)]
    assert "had {:.3f} of the original's perplexity at 4,096 tokens, and have {:.3f} with".format(*short) in PAGE
    versions = {run: lines_of_provenance(run) for run in (RUN, WRONG)}
    assert versions == {RUN: {"5.24.0"}, WRONG: {"5.17.0"}}


def lines_of_provenance(run: str) -> set[str]:
    """The versions of transformers that a run had."""
    return {line["transformers"] for line in json.loads((ROOT / "results" / run / "provenance.json").read_text())}


def test_the_ends_of_the_windows_with_the_wrong_tokenizer() -> None:
    scores = scores_of(WRONG)
    own = scores[TUNED, "far-context", LONGEST]
    said = f"{own['value']:.2f} ({own['low']:.2f}-{own['high']:.2f})"
    assert f"With 2,097,152 tokens of context it has {said} of the perplexity that it has with 32,768" in PAGE
    assert f"up to 1,024k ({scores[TUNED, 'far-context', 2**20]['value']:.3f})" in PAGE


def test_needles_and_passkeys_with_the_wrong_tokenizer() -> None:
    scores = scores_of(WRONG)

    def found(metric: str, length: int, method: str = "longrope-tuned") -> int:
        score = scores[method, metric, length]
        return int(score["num_windows"] * score["value"] + 0.5)

    needles = {length: found("prose-needle", length) for _, metric, length in scores if metric == "prose-needle"}
    assert scores["longrope-tuned", "prose-needle", LONGEST]["num_windows"] == 60
    apart = [s for s in lines(f"{WRONG}-passkeys/scores.jsonl") if s["metric"] == "passkey"]
    asked = (2**15, LONGEST, 2**12, 2**17, 2**19)
    assert [(s["context_tokens"], s["value"], s["num_windows"]) for s in apart] == [(at, 1, 10) for at in asked]
    assert "At 4k, 128k and 512k it also finds 10 of 10 passkeys" in PAGE
    assert f"finds all of 10 passkeys, one in each text, and {needles[LONGEST]} of 60 needles in prose" in PAGE
    assert f"At 32,768 tokens it finds 10 of 10 and {needles[2**15]} of 60." in PAGE
    assert min(needles[length] for length in needles if length <= 2**19) >= 0.9 * 60
    assert f"The original finds {found('prose-needle', 2**15, 'none')} of the same 60 needles at 32,768 tokens" in PAGE
    many = [found("many-passkeys", length) for length in (LONGEST, 2**15)]
    assert f"finds {many[0]} of 40 at 2,097,152 tokens and {many[1]} of 40 at 32,768" in PAGE
    assert f"the original finds {found('many-passkeys', 2**15, 'none')} of 40 at 32,768" in PAGE
    assert f"Ten passkeys have an interval of {apart[0]['low']:.0%}".rstrip("%") + "-100 %" in PAGE
    assert f"with a wrong tokenizer finds {needles[LONGEST]} of 60" in README


def test_an_earlier_run_has_the_same_perplexities_and_fewer_needles() -> None:
    now, before = (
        {(s["metric"], s["context_tokens"]): s["value"] for s in lines(f"{run}/scores.jsonl") if s["method"] == TUNED}
        for run in (WRONG, f"{WRONG}-codes")
    )
    both = [(now[key], value) for key, value in before.items() if "perplexity" in key[0] or "last-tokens" in key[0]]
    assert len(both) > 12
    assert max(abs(a / b - 1) for a, b in both) < 0.014
    assert "perplexities are the same within 1.4 %" in PAGE
    assert all(now[key] > value for key, value in before.items() if key[0] in ("prose-needle", "many-passkeys"))


def test_the_trainings_took_what_they_say() -> None:
    paths = sorted((ROOT / "results" / RUN / "stages").glob("*/train.jsonl"))
    stages = [lines(path.relative_to(ROOT / "results").as_posix()) for path in paths]
    assert [len(steps) for steps in stages] == [100, 16, 8]
    assert f"{sum(map(len, stages))} steps of two windows each" in PAGE
    minutes = sum(step["seconds"] for steps in stages for step in steps) / 60
    assert f"on two H200 that shared every window, {minutes:.0f} minutes" in PAGE
    assert f"after {minutes:.0f} minutes of training on two H200" in README
    for run, said in ((RUN, "take {:.1f}, {:.1f} and {:.1f} s for"), (WRONG, "took {:.1f}, {:.1f} and {:.1f} s,")):
        paths = sorted((ROOT / "results" / run / "stages").glob("*/train.jsonl"))
        stages = [lines(path.relative_to(ROOT / "results").as_posix()) for path in paths]
        assert said.format(*(sorted(x["seconds"] for x in steps)[len(steps) // 2] for steps in stages)) in LOG


def test_questions_in_other_words_are_at_chance() -> None:
    """What the page says of them is in the records, and every interval holds one in twenty-one."""

    def found(run: str, metric: str = "reworded-questions") -> dict[tuple[str, int], tuple[int, int]]:
        own = [s for s in lines(f"{run}/scores.jsonl") if s["metric"] == metric]
        assert all(s["low"] < 1 / 21 < s["high"] for s in own if metric == "reworded-questions")
        counts = {(s["method"], s["context_tokens"]): (s["value"] * s["num_windows"], s["num_windows"]) for s in own}
        return {key: (round(right), count) for key, (right, count) in counts.items()}

    short = found(f"{RUN}-reworded-short")
    both = ("ntk-critical", "none")
    assert [tuple(short[method, at] for at in (1024, 4096)) for method in both] == [
        ((1, 30), (0, 30)),
        ((2, 30), (0, 30)),
    ]
    assert "The trained model answers 1 of 60 such questions, the original 2" in PAGE
    assert found(f"{WRONG}-reworded-short") == {("none", 1024): (2, 30), ("ntk-critical", 1024): (3, 30)}
    assert "the original answers 2 of 30, the trained weights 3" in LOG
    far = {("ntk-critical", 2**15): (3, 60), ("ntk-critical", 2**17): (6, 60)}
    assert found(f"{WRONG}-reworded") == far
    assert "3 of 60 at 32,768 tokens, 6 of 60 at 131,072" in LOG
