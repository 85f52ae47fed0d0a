"""Facts in a chat log that are asked for in other words: a reader of the text answers all of them."""

import re
from itertools import chain

import numpy as np
import pico
import pytest
from measuring import make_context, scores_of
from ruler_prompts import TOKENIZERS, essay_of, every_tokenizer

from longrope.data import facts
from longrope.errors import TextsError
from longrope.evaluation.prompts import many_passkeys, prose, reworded, words
from longrope.evaluation.prompts.prose import ProseText
from longrope.evaluation.prompts.uses import build_texts
from longrope.metrics import REWORDED

LENGTH = 1600


def built(kind: str = "byte-level", count: int = 12, seed: int = 3, length: int = LENGTH) -> list[ProseText]:
    tokenizer = TOKENIZERS[kind]
    essays = essay_of(tokenizer, length)[None]
    return build_texts(reworded.write_reworded, REWORDED, tokenizer, length, essays, count, seed, 10)


def spelled(tokenizer: object, tokens: object) -> str:
    """What tokens say, without case and without spaces around signs, which some tokenizers change."""
    text = tokenizer.decode(np.asarray(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)  # type: ignore[attr-defined]
    return re.sub(r"\s*([:.?,])\s*", r"\1", " ".join(text.lower().split()))


SAID = (  # what stands in the text, independent of the templates: answer, thing
    r"(\w+) is what stands on the label of the (\w+ \w+)\.",
    r"(\w+) took the (\w+ \w+) home with her\.",
    r"in (\w+) they are still looking for the (\w+ \w+)\.",
)


@every_tokenizer
def test_a_reader_of_the_words_answers_all(kind: str) -> None:
    """Each thing is said once, of one kind, and asked for; a text with its longest question is as long as asked."""
    tokenizer = TOKENIZERS[kind]
    texts = built(kind)
    assert sum(len(text.needles) for text in texts) == 12
    for text in texts:
        assert len(text.tokens) + max(len(needle.tokens) for needle in text.needles) == LENGTH
        whole = spelled(tokenizer, text.tokens)
        said = [found[::-1] for pattern in SAID for found in re.findall(pattern, whole)]
        assert len(said) == len(dict(said)) == len(text.needles)
        for needle in text.needles:
            question = spelled(tokenizer, needle.tokens[: -needle.answer_tokens])
            (thing,) = re.findall(r"the (\w+ \w+)(?: now| lost)?\?", question)
            assert spelled(tokenizer, needle.tokens[-needle.answer_tokens :]) == dict(said)[thing]


def test_what_stands_before_an_answer_never_asks_for_it() -> None:
    """No two words that end a question stand before the answer in the text, so that looking for them finds nothing."""
    tokenizer = TOKENIZERS["byte-level"]
    for text in built():
        whole = spelled(tokenizer, text.tokens)
        for needle in text.needles:
            *_, last, end = spelled(tokenizer, needle.tokens[: -needle.answer_tokens]).replace("?", " ").split()
            assert f"{last} {end}" not in whole


def test_its_things_and_names_are_in_no_other_needle() -> None:
    own = {word.lower() for word in (*reworded.COLOURS, *reworded.THINGS, *reworded.PEOPLE, *reworded.TOWNS)}
    trained = chain(facts.CODED, *facts.THINGS, *facts.NAMES, *facts.PHRASES)
    measured = chain(*prose.PEOPLE, *prose.SENTENCES, words.WORDS, many_passkeys.COLOURS, many_passkeys.THINGS)
    assert not own & {word.lower() for word in chain(trained, measured)}
    assert len(own) == 12 + 12 + 14 + 14


def test_kinds_come_in_turn_and_places_are_spread() -> None:
    needles = [needle for seed in range(20) for text in built(seed=seed) for needle in text.needles]
    assert reworded.KINDS == ("number", "person", "town")
    assert min(sum(n.kind == kind for n in needles) for kind in reworded.KINDS) >= 60
    assert np.histogram([needle.depth for needle in needles], 4, (0, 1))[0].min() > 40


def test_a_length_that_holds_no_fact_is_refused() -> None:
    with pytest.raises(TextsError, match="reworded-questions was asked for at 40 tokens"):
        built(length=40)


def test_it_is_a_metric() -> None:
    """Of an untrained model the share is none or little; asked again, the cache answers."""
    windows = np.arange(1600, dtype=np.int32).reshape(1, -1) % 300
    context = make_context(pico.make_model(num_hidden_layers=1), None, windows, needles=4, needles_per_text=4)
    (score,) = scores_of(REWORDED, context)
    assert (score.metric, score.num_windows) == (REWORDED, 4)
    assert scores_of(REWORDED, context) == [score]
