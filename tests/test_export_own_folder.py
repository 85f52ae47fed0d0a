"""A checkpoint is not written over the model that it is made of."""

from dataclasses import replace
from pathlib import Path

import pico
import pytest

from longrope.errors import ExportError
from longrope.exports import export_hf
from longrope.rope import baseline_factors


def test_the_folder_of_the_model_itself_is_refused_untouched(tmp_path: Path) -> None:
    folder = pico.save_pico(tmp_path / "model")
    model = replace(pico.make_model(), name=str(folder))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "link").symlink_to("model")
    for place in (folder, tmp_path / "link"):
        with pytest.raises(ExportError, match="is the model that is exported"):
            export_hf(model, baseline_factors(model.spec, "pi", 256).factor_sets[0], place)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
