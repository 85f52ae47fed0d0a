"""What docs/2048k.md, the README and the log say of Gemma-3-270M at 2,048k tokens is what the records hold."""

from documents import lines, words

RUN, PAGE, README, LOG = "gemma3-2048k", words("docs/2048k.md"), words("README.md"), words("docs/log.md")
LONGEST = 2**21


def test_the_ends_of_the_windows_are_as_good_as_they_say() -> None:
    scores = {(s["method"], s["metric"], s["context_tokens"]): s for s in lines(f"{RUN}/scores.jsonl")}

    def said(metric: str, length: int = LONGEST) -> tuple[str, str]:
        score = scores["longrope-tuned", metric, length]
        return f"{score['value']:.2f}", f"{score['low']:.2f}-{score['high']:.2f}"

    own, ends = said("far-context")
    assert f"with 2,097,152 tokens of context it has {own} ({ends}) of what it has with 32,768" in PAGE
    assert f"with {own} of the perplexity that it has with 32,768 tokens of context ({ends})" in README
    original, ends = said("far-context-original")
    tail, of_tail = said("far-context-original-last-4096")
    assert f"have {original} of the perplexity that the original model gives them" in PAGE
    assert f"({ends}; the last 4,096: {tail}, {of_tail})" in PAGE
    assert f"({said('ratio-to-none', 32768)[0]} at 32,768 tokens" in PAGE
    assert f"up to 1,024k ({scores['longrope-tuned', 'far-context', 2**20]['value']:.3f})" in PAGE
    found = {
        (metric, length): scores["longrope-tuned", metric, length]["value"]
        for metric in ("prose-needle", "many-passkeys")
        for length in (2**15, 2**20)
    }
    needles, passkeys = (
        [round(count * found[m, n]) for n in (2**20, 2**15)]
        for m, count in (("prose-needle", 60), ("many-passkeys", 40))
    )
    assert f"{needles[0]} of 60 and {passkeys[0]} of 40, at 32k {needles[1]} of 60 and {passkeys[1]} of 40" in PAGE
    assert not any(length == LONGEST for _, metric, length in scores if metric in ("prose-needle", "many-passkeys"))


def test_single_needles_and_passkeys_of_the_original_are_those_of_another_run() -> None:
    scores = {(s["method"], s["metric"], s["context_tokens"]): s for s in lines("gemma3-128k/scores.jsonl")}
    needles, passkeys = (scores["none", metric, 32768] for metric in ("needle", "passkey"))
    assert needles["num_windows"] == passkeys["num_windows"] == 20
    found = f"{20 * needles['value']:.0f} of 20 and {20 * passkeys['value']:.0f} of 20 in its window"
    assert f"the original model finds {found}" in PAGE


def test_the_trainings_took_what_they_say() -> None:
    stages = [lines(f"{RUN}/stages/{name}/train.jsonl") for name in ("2-tune-256k-56debea6", "3-tune-512k-9db615ae")]
    assert [len(steps) for steps in stages] == [24, 12]
    minutes = sum(step["seconds"] for steps in stages for step in steps) / 60
    assert f"{minutes:.0f} minutes" == "7 minutes"
    middle = [sorted(step["seconds"] for step in steps)[len(steps) // 2] for steps in stages]
    assert f"256k {middle[0]:.1f} s and of 512k {middle[1]:.1f} s" in LOG
