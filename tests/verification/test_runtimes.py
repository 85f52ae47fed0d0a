"""Real runtimes from PyPI: the bundled model in both layouts, with the demo's factors, and faults planted there."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import sweep

import longrope
from longrope.exports import export_gguf, export_hf
from longrope.recipe import ExportRecipe
from longrope.rope import su_attention_factor
from longrope.verification.checking import Verification, verify
from longrope.verification.truth import write_record

pytestmark = pytest.mark.slow
FACTORS = Path(__file__).parents[2] / "results" / "demo" / "factors.json"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``single``, ``two``, ``single.gguf``, ``two.gguf``, ``own`` (a single list) and ``own-two``.

    The attention factor is the one that follows from the window, but of ``own`` and ``own-two``.
    """
    out = tmp_path_factory.mktemp("checkpoints")
    model = longrope.load_model("nano", device="cpu")
    own = longrope.load_factors(FACTORS).factor_sets[-1]
    export_hf(model, own, out / "own", reopen=sweep.reopen_here)
    export_hf(model, own, out / "own-two", settings=ExportRecipe(factor_sets="two"), reopen=sweep.reopen_here)
    for name in ("own", "own-two"):
        write_record(out / name, model.spec, 256)
    factors = replace(own, attention_factor=su_attention_factor(2048 / 256, 256))
    for layout in ("single", "two"):
        settings = ExportRecipe(factor_sets=layout)
        export_hf(model, factors, out / layout, settings=settings, reopen=sweep.reopen_here)
        export_gguf(model, factors, out / f"{layout}.gguf", settings=settings, dtype="f32")
        for written in (out / layout, out / f"{layout}.gguf"):
            write_record(written, model.spec, 256)
    return out


def check(path: Path, *clients: str) -> dict[str, Verification]:
    return {done.client: done for done in verify(path, clients, device="cpu")}


def test_transformers_4_and_mlx_apply_two_lists(checkpoints: Path) -> None:
    done = check(checkpoints / "two", "transformers-4.57", "mlx-lm")
    assert [each.verdict for each in done.values()] == ["applied"] * 2, done
    assert done["transformers-4.57"].versions["transformers"].startswith("4.57.")
    assert [finding.as_ for finding in done["mlx-lm"].findings] == ["long factors"] * 3, "it has one list alone"


def test_mlx_applies_an_attention_factor_of_its_own_of_a_single_list(checkpoints: Path) -> None:
    """It derives the factor from the windows, and those are stated so that it is ours."""
    [done] = verify(checkpoints / "own", ["mlx-lm"], device="cpu")
    assert done.verdict == "applied"
    assert max(finding.difference_nats for finding in done.findings) < 0.005


def test_mlx_refuses_two_lists_unless_it_may_run_their_file(checkpoints: Path, tmp_path: Path) -> None:
    """Without the file it runs the long list with another attention factor, and that is said at every length."""
    done = check(checkpoints / "own-two", "mlx-lm", "mlx-lm-remote-code")
    assert done["mlx-lm"].verdict == "refused"
    assert "custom module ('mlx_lm_model.py')" in done["mlx-lm"].message
    assert set(done["mlx-lm"].versions) == {"mlx-lm", "mlx"}
    given = done["mlx-lm-remote-code"]
    assert given.verdict == "applied"
    assert [finding.as_ for finding in given.findings] == ["long factors"] * 3
    assert max(finding.difference_nats for finding in given.findings) < 0.005
    folder = Path(shutil.copytree(checkpoints / "own-two", tmp_path / "two"))
    config = json.loads((folder / "config.json").read_text())
    del config["model_file"]
    (folder / "config.json").write_text(json.dumps(config))
    [plain] = verify(folder, ["mlx-lm"], device="cpu")
    assert plain.verdict == "other scaling"
    assert all("the attention factor that follows from the window" in finding.as_ for finding in plain.findings)


def test_llama_cpp_applies_both_layouts(checkpoints: Path) -> None:
    """Its context of 256 tokens takes the short list, a larger one the long list."""
    single = check(checkpoints / "single.gguf", "llama.cpp")["llama.cpp"]
    assert single.verdict == "applied"
    two = check(checkpoints / "two.gguf", "llama.cpp")["llama.cpp"]
    assert [finding.as_ for finding in two.findings] == ["short factors", "long factors", "long factors"]
    assert max(finding.difference_nats for finding in (*single.findings, *two.findings)) < 0.03


def test_faults_are_found_in_other_runtimes(checkpoints: Path, tmp_path: Path) -> None:
    """A folder without the entries that older readers know, and a file that holds other factors than it should."""
    folder = Path(shutil.copytree(checkpoints / "single", tmp_path / "new-entries-alone"))
    config = json.loads((folder / "config.json").read_text())
    for name in ("rope_scaling", "rope_theta", "original_max_position_embeddings"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config))
    done = check(folder, "transformers-4.57")
    assert [each.verdict for each in done.values()] == ["original"]
    [other] = verify(checkpoints / "two.gguf", ["llama.cpp"], reference=checkpoints / "single", device="cpu")
    assert other.verdict == "other scaling"
    assert [finding.verdict for finding in other.findings] == ["other scaling", "applied", "applied"]
