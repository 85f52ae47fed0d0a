"""One process, and what a launch decides before it begins: the state, its owner, and which processes share windows."""

import pickle
import signal

import pytest
import torch
from documents import words

from longrope import distributed
from longrope.distributed import DistributedState, entered
from longrope.distributed.failures import detecting_lost_processes, ending_at_sigterm
from longrope.distributed.launch import SHARED_FROM_TOKENS, check_gpus, choose_context
from longrope.distributed.state import current, working
from longrope.errors import LongRopeError, ProcessLostError, RecipeError, TextsError


def test_one_process_does_all_work_itself() -> None:
    with distributed.launched():
        assert distributed.is_main()
        places = distributed.ranks(), distributed.workers(), distributed.row()
        assert (*places, distributed.shard(), distributed.choices()) == (1, 1, 0, None, ())
        assert distributed.map_ranks(range(3), str) == ["0", "1", "2"]
        assert distributed.on_main(lambda: distributed.on_main(lambda: 5)) == 5
        assert distributed.claim_report()
        assert not torch.distributed.is_initialized()


def test_a_process_joins_once() -> None:
    """And can join again after it has left, an exception included."""
    with distributed.launched():
        with pytest.raises(RuntimeError, match="joined a launch already"), distributed.launched():
            pytest.fail("it joined twice")
        assert distributed.ranks() == 1
    with pytest.raises(ZeroDivisionError), entered(DistributedState(ranks=4)):
        join_again_and_fail()
    assert distributed.ranks() == 1


def join_again_and_fail() -> None:
    with pytest.raises(RuntimeError, match="joined a launch already"), entered(DistributedState(ranks=8)):
        pytest.fail("it joined twice")
    assert distributed.ranks() == 4
    raise ZeroDivisionError


def test_a_process_of_a_launch_does_not_join_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any group of the launch is touched."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with entered(DistributedState(ranks=2)):
        with pytest.raises(RuntimeError, match="joined a launch already"), distributed.launched():
            pytest.fail("it joined twice")
        assert distributed.ranks() == 2


@pytest.mark.parametrize(
    ("rank", "context", "row", "workers", "place"),
    [(0, 1, 0, 8, None), (5, 1, 5, 8, None), (5, 2, 2, 4, (1, 2)), (5, 8, 0, 1, (5, 8)), (4, 4, 1, 2, (0, 4))],
)
def test_places_in_rows(rank: int, context: int, row: int, workers: int, place: tuple[int, int] | None) -> None:
    """Eight processes in rows of those that share a sequence; alone at some work a process has sequences whole."""
    with entered(DistributedState(rank, 8, context)):
        assert (distributed.row(), distributed.workers(), distributed.is_main()) == (row, workers, rank == 0)
        shard = distributed.shard()
        assert (shard and (shard.rank, shard.ranks)) == place
        for scope, whole in (("row", place is None), ("one", True)):
            with working(scope):  # type: ignore[arg-type]
                assert distributed.workers() == 1
                assert (distributed.shard() is None) == whole
        assert current().scope == "all"


def test_errors_go_from_process_to_process() -> None:
    for kind in (LongRopeError, TextsError, ProcessLostError):
        error = pickle.loads(pickle.dumps(kind("This was found.", "That is needed.", "Do it.")))  # noqa: S301
        assert type(error) is kind
        assert (error.found, error.needed, error.remedy) == ("This was found.", "That is needed.", "Do it.")
        assert str(error) == "This was found. That is needed. Do it."


@pytest.mark.parametrize(("processes", "asked"), [(1, 2), (4, 3), (2, 4), (4, 0), (4, -2)])
def test_processes_that_cannot_be_grouped_are_refused(
    processes: int, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    with (
        pytest.raises(RecipeError, match=f"{asked} processes are to share .* of {processes} in all"),
        distributed.launched(asked),
    ):
        pytest.fail("they were grouped")
    assert distributed.ranks() == 1


@pytest.mark.parametrize(
    ("processes", "asked", "longest", "expected", "reason"),
    [
        (8, None, 2**18 - 1, 1, "262,143 tokens, fewer than 262,144"),
        (8, None, 2**18, 8, "262,144 tokens, 262,144 or more"),
        (8, None, 2**21, 8, "2,097,152 tokens"),
        (8, 2, 2**21, 2, "as asked"),
        (8, 8, 64, 8, "as asked"),
        (1, 1, 64, 1, "as asked"),
    ],
)
def test_long_windows_are_shared_by_default(
    processes: int, asked: int | None, longest: int, expected: int, reason: str
) -> None:
    context, why = choose_context(processes, asked, longest)
    assert context == expected
    assert reason in why


def test_the_docs_say_which_windows_are_shared_by_default() -> None:
    said = f"by default all processes do so if the longest window has {SHARED_FROM_TOKENS:,} tokens or more."
    assert said in words("docs/clusters.md")


def test_more_processes_than_gpus_are_refused() -> None:
    check_gpus(2, 2)
    with pytest.raises(RecipeError, match=r"4 processes .* number 1\. .* --nproc-per-node 1"):
        check_gpus(4, 1)


def test_a_lost_process_is_no_fault_of_ours() -> None:
    """By what gloo and torch say of it; any other error stays what it is."""
    with pytest.raises(ProcessLostError, match=r"was lost \(Connection closed by peer\)"), detecting_lost_processes():
        raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:525] Connection closed by peer. More.")
    with pytest.raises(ProcessLostError, match="NCCL"), detecting_lost_processes():
        raise torch.distributed.DistBackendError("NCCL error")
    with pytest.raises(RuntimeError, match="shapes differ"), detecting_lost_processes():
        raise RuntimeError("shapes differ")


def test_sigterm_is_handled_in_a_launch_alone() -> None:
    """Afterwards it does what it does by default, and no file descriptor is written to any more."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with ending_at_sigterm():
            assert callable(signal.getsignal(signal.SIGTERM))
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGTERM, before)
