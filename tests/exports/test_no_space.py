"""A disk that fills up where another process writes its answer is named as that, and not as a fault of the model."""

from functools import partial
from pathlib import Path

import pico
import pytest
from exporting import make_factors

from longrope.errors import ExportError
from longrope.exports import export_hf, hf


@pytest.mark.parametrize("number", hf.NO_SPACE)
def test_an_answer_without_space_is_no_fault_of_the_checkpoint(number: int, tmp_path: Path) -> None:
    full = partial(hf.reopen_alone, script=f"import os; raise OSError({number}, os.strerror({number}))")
    model = pico.make_model("llama")
    with pytest.raises(ExportError, match=rf"cannot be written .*{number}\]") as caught:
        export_hf(model, make_factors(model), tmp_path / "hf", reopen=full)
    assert "the same command goes on from here" in caught.value.remedy
    assert not (tmp_path / "hf").exists()
