"""What docs/2048k.md, the README and the log say of Gemma-3-270M at 2,048k tokens is what the records hold."""

import json
import re
from typing import Any

from documents import ROOT, lines, words

TUNED = "longrope-tuned"
RUN, WRONG = "gemma3-2048k", "gemma3-2048k-wrong-tokenizer"
PAGE, README, LOG = words("docs/2048k.md"), words("README.md"), words("docs/log.md")
LONGEST = 2**21
AGAIN = {"-seed1": "ntk-critical", "-yarn-seed1": "yarn"}  # trainings with another seed, and their factors
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
    assert f"It finds {own[0]} at 131,072 tokens, {own[1]} at 32,768 (its own window) and {own[2]} at 4,096;" in PAGE
    assert f"the original finds {original[1]} at 32,768, {original[2]} at 4,096 and none at 131,072" in PAGE
    assert original[0] == 0
    many, few = ([count(scores, "many-passkeys", at, method) for at in (2**15, 2**17)] for method in (TUNED, "none"))
    assert f"finds {many[0]} of 40 at 32,768 tokens, {many[1]} of 40 at 131,072 and" in PAGE
    assert few == [2, 2]
    answers = [
        line
        for name in (f"{RUN}/answers", f"{RUN}/answers-hf", f"{RUN}-yarn/answers")
        for line in lines(f"{name}.jsonl")
    ]
    assert len(answers) == 12
    assert all(line["found"] and line["prompt_tokens"] > 1_098_000 for line in answers)
    assert "three of three questions about a document of 1.1 million tokens" in PAGE
    assert "Three of three questions about a document of 1.1 million tokens are answered" in PAGE


def test_far_context_and_its_controls() -> None:
    """Shares of perplexity with far context as it is, shuffled, and of another text."""
    control = {(metric, at): s for (_, metric, at), s in scores_of(f"{RUN}-control").items()}

    def said(metric: str, at: int = 2**20, digits: int = 3) -> tuple[str, str]:
        score = control[metric, at]
        return f"{score['value']:.{digits}f}", f"{score['low']:.{digits}f}-{score['high']:.{digits}f}"

    scores = scores_of(RUN)
    shuffled, ends = said("far-shuffled")
    rises = f"perplexity rises by {100 * (1 / float(shuffled) - 1):.0f} % at 1,048,576 tokens"
    assert f"{rises} (unshuffled text has {shuffled}, {ends}, of the perplexity of shuffled text)" in PAGE
    assert f"and by {100 * (1 / control['far-shuffled', 2**17]['value'] - 1):.1f} % at 131,072" in PAGE
    near = scores[TUNED, "last-tokens-32767", 2**15]["value"]
    replaced = control["far-replaced-perplexity", 2**20]["value"]
    assert f"perplexity is {replaced:.2f} at 1,048,576 tokens; with no far context it is {near:.2f}. So" in PAGE
    control = {(metric, at): s for (_, metric, at), s in scores_of(f"{RUN}-yarn-control").items()}
    shuffled, ends = said("far-shuffled")
    rises = f"perplexity rises by {100 * (1 / float(shuffled) - 1):.0f} % at 1,048,576 tokens"
    assert f"{rises} (unshuffled text has {shuffled}, {ends}, of the perplexity of shuffled text)" in PAGE
    assert f"and by {100 * (1 / control['far-shuffled', 2**17]['value'] - 1):.1f} % at 131,072" in PAGE
    near = scores_of(f"{RUN}-yarn")[TUNED, "last-tokens-32767", 2**15]["value"]
    replaced = control["far-replaced-perplexity", 2**20]["value"]
    assert f"perplexity is {replaced:.2f} at 1,048,576 tokens; with no far context it is {near:.2f}." in PAGE
    assert (
        f"At 1,048,576 tokens, shuffling the far part raises it by {100 * (1 / float(shuffled) - 1):.0f} %." in README
    )


def test_short_texts_longer_texts_and_methods_without_training() -> None:
    scores, untrained = scores_of(RUN), scores_of(f"{RUN}-untrained")
    short = [scores[TUNED, "ratio-to-none", at]["value"] for at in (2**15, 2**12)]
    assert "{:.3f} of the original's at 32,768 tokens, {:.3f} at 4,096".format(*short) in PAGE
    own = untrained["critical", "far-context-original", 2**19]
    assert f"{own['value']:.3f} ({own['low']:.3f}-{own['high']:.3f}) of the perplexity that the original has" in PAGE
    trained = scores_of(f"{RUN}-control")["ntk-critical", "last-tokens-32767", 2**19]["value"]
    share = trained / untrained["critical", "last-tokens-32767", 2**19]["value"]
    assert f"trained, the model has {share:.2f} of that untrained perplexity" in PAGE
    apart = [scores_of(f"{RUN}-{name}") for name in ("untrained", "untrained-1024k", "before")]
    needles = [count(own, *key[1:], key[0]) for own in apart for key in own if key[1] == "prose-needle"]
    assert max(needles) == 24
    assert len(needles) == 13
    assert "no method finds more than 24 of the 60 needles at 131,072 tokens or more." in PAGE
    assert min(at for own in apart for _, metric, at in own if metric == "prose-needle") == 2**17
    export = json.loads((ROOT / "results" / RUN / "export.json").read_text())
    assert f"by them, texts of {export['short_tokens']:,} tokens have" in PAGE
    ratio = export["perplexity_single"] / export["perplexity_original"]
    assert f"have {ratio:.3f} of the perplexity that the same weights have with the model's own RoPE" in PAGE
    far = {line["tokens"]: line for line in lines(f"{RUN}/far.jsonl") if line["factors_window"] == line["tokens"]}
    ratios = [far[at]["whole"]["last"] / far[at]["near"]["last"] for at in (2**21, 2**22, 2**23)]
    said = "{:.3f} of near context's perplexity at 2,097,152 tokens, {:.3f} at 4,194,304 and {:.3f} at 8,388,608"
    assert said.format(*ratios) in PAGE


def test_what_the_missing_token_did() -> None:
    """The original without it and with it, and what training seemed to gain at short lengths."""
    with_it, without = scores_of(RUN), scores_of(WRONG)
    original = [scores["none", "prefix-perplexity", 2**12]["value"] for scores in (with_it, without)]
    assert "gave the original {:.2f} on the first 4,096 tokens where the record had {:.2f}".format(*original) in LOG
    short = [scores[TUNED, "ratio-to-none", at]["value"] for scores in (without, with_it) for at in (2**12, 2**15)]
    assert "({:.3f} at 4k, {:.3f} at 32k) were".format(*short[:2]) in LOG
    assert "with the token they are {:.3f} and {:.3f}".format(*short[2:]) in LOG
    versions = {run: lines_of_provenance(run) for run in (RUN, f"{RUN}-lengths", f"{RUN}-passkeys", WRONG)}
    assert versions == {**{key: {"5.24.0"} for key in [RUN, f"{RUN}-lengths", f"{RUN}-passkeys"]}, WRONG: {"5.17.0"}}


def lines_of_provenance(run: str) -> set[str]:
    """The versions of transformers that a run had."""
    return {line["transformers"] for line in json.loads((ROOT / "results" / run / "provenance.json").read_text())}


def test_the_longest_windows() -> None:
    """Needles, passkeys and perplexity beyond the lengths of the run itself, and with the wrong tokenizer."""
    scores, wrong = scores_of(f"{RUN}-lengths"), scores_of(WRONG)
    places = (LONGEST, 2**20, 2**19)
    found = [count(scores, "prose-needle", at, "ntk-critical") for at in places]
    assert "finds {} of 60 needles in prose at 2,097,152 tokens**, ten in".format(*found) in PAGE
    assert "{1} at 1,048,576 and {2} at 524,288.".format(*found) in PAGE
    assert "512k, 1,024k and 2,048k: {2}, {1} and {0} of 60, with".format(*found) in LOG
    before = [count(wrong, "prose-needle", at) for at in places]
    assert "with the wrong tokenizer {2}, {1} and {0}.".format(*before) in LOG
    kinds = [count(scores, f"prose-needle-{kind}", LONGEST, "ntk-critical") for kind in ("sentence", "number", "name")]
    assert "it finds {} of 20 sentences, {} of 20 numbers and {} of 20 names".format(*kinds) in PAGE
    sentences = [count(scores, "prose-needle-sentence", at, "ntk-critical") for at in places]
    assert "lost first: {2}, {1} and {0} of 20".format(*sentences) in LOG
    many = count(scores, "many-passkeys", LONGEST, "ntk-critical")
    assert f"and {many} of 40 at 2,097,152 (the original 2 and 2" in PAGE
    alone = {s["context_tokens"]: s for s in lines(f"{RUN}-passkeys/scores.jsonl") if s["metric"] == "passkey"}
    assert {at: s["value"] for at, s in alone.items()} == {
        2**n: 0.9 if n == 15 else 1 for n in (12, 15, 17, 19, 20, 21)
    }
    assert {s["num_windows"] for s in alone.values()} == {10}
    assert "finds 59 of 60; the one that it misses is at 32,768 tokens" in PAGE
    assert f"Ten passkeys have an interval of {alone[LONGEST]['low']:.0%}".rstrip("%") + "-100 %" in PAGE
    original, near = (scores["ntk-critical", name, LONGEST] for name in ("far-context-original", "far-context"))
    ends = [original[name] for name in ("value", "low", "high")]
    share = "{:.3f} ({:.3f}-{:.3f})".format(*ends)
    assert f"have {share} of the perplexity that the original has with 32,768" in PAGE
    assert f"and {near['value']:.3f} of that which the trained weights have" in PAGE
    assert f"there the latter is {scores['ntk-critical', 'far-context', 2**19]['value']:.3f}." in PAGE
    assert f"with NTK by critical dimension {found[0]} of 60, " in README


def test_other_factors_trained_alike() -> None:
    """YaRN's: what they find beside those of the other training, perplexity, and what short texts cost."""
    own, other = (scores_of(run) | scores_of(f"{run}-lengths") for run in (f"{RUN}-yarn", RUN))
    apart = {2**19, 2**20, LONGEST}

    def found(scores: Scores, formula: str, metric: str, at: int) -> int:
        return count(scores, metric, at, formula if at in apart else TUNED)

    both = ((own, "yarn"), (other, "ntk-critical"))
    pairs = {
        (metric, 2**n): [found(*of, metric, 2**n) for of in both]
        for metric in ("prose-needle", "many-passkeys")
        for n in (12, 15, 17, 19, 20, 21)
    }
    said = "find {} of 40 at 2,097,152 tokens and those of NTK by critical dimension {};"
    assert said.format(*pairs["many-passkeys", LONGEST]) in PAGE
    said = "YaRN's factors find {} of 60 needles at 2,097,152 tokens, the others {}, and at no length fewer"
    assert said.format(*pairs["prose-needle", LONGEST]) in PAGE
    assert all(ours >= theirs for ours, theirs in pairs.values())
    separate = {
        key
        for key in pairs
        for ours, theirs in [[scores[name if key[1] in apart else TUNED, *key] for scores, name in both]]
        if ours["low"] > theirs["high"]
    }
    assert separate == {("many-passkeys", 2**n) for n in (15, 17, 19, 21)}, "of needles none"
    shares = [
        own[name if at in apart else TUNED, "last-tokens-32767", at]["value"]
        / other[old if at in apart else TUNED, "last-tokens-32767", at]["value"]
        for at, name, old in ((2**17, "yarn", "ntk-critical"), (LONGEST, "yarn", "ntk-critical"))
    ]
    assert "is {:.3f} times as high with 131,072 tokens and {:.3f} times with 2,097,152".format(*shares) in PAGE
    alone = {s["context_tokens"]: s for s in lines(f"{RUN}-yarn-passkeys/scores.jsonl") if s["metric"] == "passkey"}
    assert {at: s["value"] for at, s in alone.items()} == {2**n: 1 for n in (12, 15, 17, 19, 20, 21)}
    assert "found in all of 60 texts, ten at each of six lengths up to 2,097,152 tokens" in PAGE
    untrained = scores_of(f"{RUN}-untrained")
    behind = [untrained[name, "last-tokens-32767", 2**19]["value"] for name in ("yarn", "ntk-critical")]
    assert f"its perplexity is {behind[0] / behind[1]:.2f} times that of NTK" in PAGE
    exports = [json.loads((ROOT / f"results/{run}/export.json").read_text()) for run in (f"{RUN}-yarn", RUN)]
    short = [export["perplexity_single"] / export["perplexity_original"] for export in exports]
    own_rope = "the perplexity that the same weights have with the model's own RoPE"
    assert f"have {short[0]:.3f} times {own_rope} ({short[1]:.3f} with the others)" in PAGE
    factors = json.loads((ROOT / f"results/{RUN}-yarn/factors.json").read_text())["tiers"][-1]
    assert f"the attention factor, {factors['attention_factor']:.3f} with YaRN and 1 with" in PAGE
    assert f"finds {pairs['prose-needle', LONGEST][0]} of 60 needles in texts of 2,097,152 tokens" in README
    said = "finds {1} of 60 needles with the factors of NTK by critical dimension and {0} with YaRN's."
    assert said.format(*pairs["prose-needle", LONGEST]) in PAGE
    again = [scores_of(f"{RUN}{name}-hundred")[by, "many-passkeys", LONGEST]["value"] for name, by in AGAIN.items()]
    shares = [*again, *(found / 40 for found in pairs["many-passkeys", LONGEST])]
    assert f"Of similar passkeys it finds {100 * min(shares):.0f}-{100 * max(shares):.0f} %" in README
    share = own["yarn", "far-context-original", LONGEST]
    ends = [f"{share[name]:.2f}" for name in ("value", "low", "high")]
    assert "have {} times ({}-{}) the original's perplexity in its window".format(*ends) in README


def test_two_million_tokens_without_training() -> None:
    scores = scores_of(f"{RUN}-untrained-2048k")
    for method, by in (("critical", "by the critical-pair rule"), ("ntk-critical", "by NTK by critical dimension")):
        score = scores[method, "far-context-original", LONGEST]
        said = f"{score['value']:.3f} ({score['low']:.3f}-{score['high']:.3f})"
        assert re.search(rf"{re.escape(said)}( of the original's perplexity in its window)? {by}", PAGE)
    assert (count(scores, "prose-needle", LONGEST, "ntk-critical"), "finds none of 20 needles" in PAGE) == (0, True)


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
