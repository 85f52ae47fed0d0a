"""Models at a revision and in a folder of a repository on the hub, and checkpoints sent there: against a stand-in."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pico
import pytest
from fork_server import ForkServer, Outcome
from hub_server import Hub, serving

from longrope.errors import ModelError
from longrope.exports.card import Origin
from longrope.models.hub import HubPlace, read_place

Longrope = Callable[..., Outcome]


def contents(folder: Path, below: str = "") -> dict[str, bytes]:
    return {f"{below}{path.name}": path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    """One repository: another window in the folder of revision v2, and a file of code that nothing may fetch."""
    made = Hub()
    short, long = (
        pico.save_pico(tmp_path_factory.mktemp("pico") / f"{window}", max_position_embeddings=window)
        for window in (128, 512)
    )
    made.repos["owner/pico"] = {
        "main": contents(short),
        "v2": contents(long, "sub/folder/") | {"sub/folder/code.py": b"raise SystemExit", "other/weights.bin": b"?"},
    }
    made.repos |= {"owner/gated": {"main": contents(short)}, "owner/locked": {"main": contents(short)}}
    made.gated = {"owner/gated": "hf_word", "owner/locked": "hf_another"}
    return made


@pytest.fixture(scope="module")
def longrope(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Longrope]:
    """The command line in processes that know the stand-in alone."""
    home = tmp_path_factory.mktemp("home")
    with serving(hub) as address:
        server = ForkServer(
            HF_HUB_OFFLINE="0", HF_ENDPOINT=address, HF_HOME=str(home), HF_TOKEN="hf_word", NO_COLOR="1"
        )
        yield lambda *arguments: server.run(arguments, home, seconds=300)
        server.close()


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("owner/name@v2", HubPlace("owner/name", "v2")),
        ("owner/name@v2/a/b", HubPlace("owner/name", "v2", "a/b")),
        ("hf://owner/name", HubPlace("owner/name")),
        ("hf://owner/na.me-1/q4.gguf", HubPlace("owner/na.me-1", "", "q4.gguf")),
        ("owner/name", None),
        ("owner/name/folder", None),
        ("name", None),
        ("./owner/name", None),
        ("/owner/name@v2", None),
    ],
)
def test_places_on_the_hub(source: str, place: HubPlace | None) -> None:
    assert read_place(source) == place


def test_what_is_on_the_disk_is_no_place_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("owner/name@v2").mkdir(parents=True)
    assert read_place("owner/name@v2") is None


def test_a_place_without_a_repository_is_refused() -> None:
    with pytest.raises(ModelError, match="names no model on the hub"):
        read_place("hf://name")


def test_a_card_names_the_repository_alone() -> None:
    assert Origin("owner/name@v2/folder").on_hub == "owner/name"


@pytest.mark.slow
def test_a_revision_and_a_folder_are_read(longrope: Longrope, hub: Hub) -> None:
    done = longrope("inspect", "owner/pico@v2/sub/folder")
    assert done.code == 0, done.err
    assert "512" in done.out
    fetched = [path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path]
    assert {"config.json", "model.safetensors"} <= set(fetched)
    assert not {"code.py", "weights.bin"} & set(fetched)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("owner/pico@v3", "RevisionNotFoundError"),
        ("owner/none@v2", "RepositoryNotFoundError"),
        ("owner/pico@v2/other", "has no config.json"),
        ("owner/locked@main", "GatedRepoError"),
        ("owner/locked", "gated repo"),
    ],
)
def test_what_is_not_there_is_said(longrope: Longrope, source: str, reason: str) -> None:
    done = longrope("inspect", source)
    assert done.code == 2
    assert reason in done.err
    assert source in done.err
    assert "for a gated or private repository log in with hf auth login" in done.err or "has no config" in reason
    assert "Traceback" not in done.err


@pytest.mark.slow
@pytest.mark.parametrize("source", ["owner/gated", "owner/gated@main"])
def test_a_gated_model_is_read_with_the_token_of_the_hub(longrope: Longrope, source: str) -> None:
    done = longrope("inspect", source)
    assert done.code == 0, done.err
    assert "128" in done.out


@pytest.mark.slow
def test_a_checkpoint_is_sent_and_read_again(longrope: Longrope, hub: Hub, tmp_path: Path) -> None:
    folder = pico.save_pico(tmp_path / "hf", max_position_embeddings=1024)
    (folder / "notes.py").write_text("not sent")
    done = longrope("upload", folder, "owner/extended", "--private", "--revision", "long")
    assert done.code == 0, done.err
    sent = hub.repos["owner/extended"]
    assert sent["main"] == {}
    assert sent["long"] == {name: x for name, x in contents(folder).items() if name != "notes.py"}
    assert "owner/extended" in hub.private
    assert longrope("upload", folder, "owner/extended").code == 0, "it is there already"
    assert "1024" in longrope("inspect", "owner/extended@long").out.replace(",", "")
    refused = longrope("upload", tmp_path / "none", "owner/extended")
    assert refused.code == 2
    assert "holds no checkpoint" in refused.err
