"""Many tokens are kept in a file, and are the same as in memory; long documents are tokenized in pieces."""

from typing import Any

import numpy as np
import pytest

from longrope.data import load_texts, pieces
from longrope.data.streams import TokenStream


@pytest.mark.parametrize("in_memory", [0, 50, 10**6])
def test_a_stream_in_a_file_holds_the_same_tokens(in_memory: int) -> None:
    rng, stream = np.random.default_rng(0), TokenStream(in_memory=in_memory)
    given = [rng.integers(0, 1000, size).astype(np.int32) for size in (30, 1, 40, 7)]
    for i, tokens in enumerate(given):
        stream.extend(f"{i}", [tokens])
    for _ in range(2):
        assert stream.tokens().tolist() == np.concatenate(given).tolist()
    assert stream.borders().tolist() == [0, 30, 31, 71, 78]
    whole = stream.tokens()
    whole[0] = 5
    del stream
    assert whole[1:].tolist() == np.concatenate(given).tolist()[1:]


def test_a_long_document_is_cut_at_ends_of_paragraphs(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No character is lost, no piece is too long, and its tokens are those of its pieces."""
    monkeypatch.setattr(pieces, "PIECE_CHARACTERS", 100)
    text = "".join(f"Paragraph {i} has words.\n\n" for i in range(30)) + "x" * 250
    cut = pieces.pieces_of(text)
    assert "".join(cut) == text
    assert max(map(len, cut)) <= 100
    assert all(piece.endswith("\n\n") for piece in cut[:7])
    texts = load_texts([], tokenizer, measure=[[text]])
    ids = [token for piece in cut for token in tokenizer(piece)["input_ids"]]
    assert texts.measure.tokens.tolist() == [*ids, tokenizer.eos_token_id]
    assert len(texts.measure.documents) == 1


def test_long_documents_are_tokenized_a_few_pieces_at_a_time(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tokenized together is bounded, the bytes that are reported grow with it, and no token changes."""
    monkeypatch.setattr(pieces, "PIECE_CHARACTERS", 100)
    monkeypatch.setattr(pieces, "MOST_PIECES", 1)
    asked, reported = list[int](), list[int]()

    class Watched:
        """The tokenizer, with how much it is asked for at once."""

        bos_token_id, eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id

        def __call__(self, texts: Any, **options: Any) -> Any:
            if isinstance(texts, list):
                asked.append(sum(map(len, texts)))
            return tokenizer(texts, **options)

    text = "".join(f"Paragraph {i} has words.\n\n" for i in range(40))
    plain = load_texts([], tokenizer, measure=[[text]])
    asked.clear()
    texts = load_texts([], Watched(), measure=[[text]], on_read=reported.append)
    assert len(asked) >= 9
    assert max(asked) <= 100
    assert reported == sorted(reported)
    assert len(set(reported)) >= 9
    assert reported[-1] == len(text)
    assert texts.measure.tokens.tolist() == plain.measure.tokens.tolist()
