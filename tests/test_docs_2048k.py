"""What docs/2048k.md, the README and the log say of Gemma-3-270M at 2,048k tokens is what the records hold."""

from documents import ROOT, lines, words

TUNED = "longrope-tuned"
RUN, PAGE, README, LOG = "gemma3-2048k", words("docs/2048k.md"), words("README.md"), words("docs/log.md")
LONGEST = 2**21


def test_the_ends_of_the_windows_are_as_good_as_they_say() -> None:
    scores = {(s["method"], s["metric"], s["context_tokens"]): s for s in lines(f"{RUN}/scores.jsonl")}

    def said(metric: str, length: int = LONGEST) -> tuple[str, str]:
        score = scores["longrope-tuned", metric, length]
        return f"{score['value']:.2f}", f"{score['low']:.2f}-{score['high']:.2f}"

    own, ends = said("far-context")
    assert f"with 2,097,152 tokens of context it has {own} ({ends}) of the perplexity that it has with 32,768" in PAGE
    assert f"the last 32,767 tokens is {own} times ({ends}) that with 32,768 tokens of context" in README
    original, ends = said("far-context-original")
    tail, of_tail = said("far-context-original-last-4096")
    assert f"have {original} of the perplexity that the original model gives them" in PAGE
    assert f"({ends}; the last 4,096: {tail}, {of_tail})" in PAGE
    assert f"({said('ratio-to-none', 32768)[0]} at 32,768 tokens" in PAGE
    assert f"up to 1,024k ({scores['longrope-tuned', 'far-context', 2**20]['value']:.3f})" in PAGE


def test_needles_and_passkeys_are_as_many_as_they_say() -> None:
    scores = {(s["method"], s["metric"], s["context_tokens"]): s for s in lines(f"{RUN}/scores.jsonl")}

    def found(metric: str, length: int, method: str = "longrope-tuned") -> int:
        score = scores[method, metric, length]
        return int(score["num_windows"] * score["value"] + 0.5)

    needles = {length: found("prose-needle", length) for _, metric, length in scores if metric == "prose-needle"}
    assert scores["longrope-tuned", "prose-needle", LONGEST]["num_windows"] == 60
    apart = [s for s in lines(f"{RUN}-passkeys/scores.jsonl") if s["metric"] == "passkey"]
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
    assert f"finds 10 of 10 passkeys and {needles[LONGEST]} of 60 needles" in README


def test_an_earlier_run_has_the_same_perplexities_and_fewer_needles() -> None:
    now, before = (
        {(s["metric"], s["context_tokens"]): s["value"] for s in lines(f"{run}/scores.jsonl") if s["method"] == TUNED}
        for run in (RUN, f"{RUN}-codes")
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
    assert f"on two H200, {minutes:.0f} minutes" in PAGE
    assert f"after {minutes:.0f} minutes of training on two H200" in README
    middle = [sorted(step["seconds"] for step in steps)[len(steps) // 2] for steps in stages]
    assert "64k {:.2f} s, of 256k {:.1f} s, of 512k {:.1f} s".format(*middle) in LOG


def test_questions_in_other_words_are_at_chance() -> None:
    """What the page says of them is in the records, and every interval holds one in twenty-one."""

    def found(run: str, metric: str = "reworded-questions") -> dict[tuple[str, int], tuple[int, int]]:
        own = [s for s in lines(f"{run}/scores.jsonl") if s["metric"] == metric]
        assert all(s["low"] < 1 / 21 < s["high"] for s in own if metric == "reworded-questions")
        counts = {(s["method"], s["context_tokens"]): (s["value"] * s["num_windows"], s["num_windows"]) for s in own}
        return {key: (round(right), count) for key, (right, count) in counts.items()}

    far, short = found(f"{RUN}-reworded"), found(f"{RUN}-reworded-short")
    assert far == {("ntk-critical", 2**15): (3, 60), ("ntk-critical", 2**17): (6, 60)}
    assert "Of 60 questions that ask for facts in other words, it answers 3 at 32,768 tokens and 6 at 131,072" in PAGE
    needles = found(f"{RUN}-reworded", "prose-needle")
    assert [right for right, _ in needles.values()] == [54, 57]
    assert "but it finds 54 and 57 of 60 needles in prose" in PAGE
    assert (short["none", 1024], short["ntk-critical", 1024]) == ((2, 30), (3, 30))
    assert "the original answers 2 of 30, the trained model 3" in PAGE
    assert "the original answers 2 of 30, the trained weights 3" in LOG
