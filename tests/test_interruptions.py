"""Commands that are killed, stopped, meet a full disk or a power cut go on to what undisturbed ones have made.

A few of each here, of a search; ``python tests/reliability.py`` tries hundreds, of five commands. Here a run is hit
several times, each time further on, before it is compared.
"""

import shutil
from collections.abc import Iterator

import pytest
from fork_server import ForkServer
from interruptions import Trials, make_inputs, plan, why_no_mount, wrong_end

pytestmark = pytest.mark.slow
HITS_OF_A_RUN = 5
SHARE = 0.3  # of the writes or seconds of an undisturbed run, within which each hit comes: less is left each time


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    folder, server = tmp_path_factory.mktemp("trials"), ForkServer()
    made = Trials(server, folder, make_inputs(folder), unopened=True)
    made.make_whole("search")
    yield made
    server.close()


@pytest.mark.parametrize(("kind", "runs"), [("kill", 4), ("power cut", 1)])
def test_commands_that_are_hit_several_times_go_on(kind: str, runs: int, trials: Trials) -> None:
    cases, hits = plan(kind, runs * HITS_OF_A_RUN, ("search",)), 0
    for number in range(runs):
        place = trials.begin("search", f"{kind}, run {number}")
        for case in cases[number::runs]:
            outcome = trials.disturb(case._replace(moment=SHARE * case.moment), place)
            assert wrong_end(case, outcome) == "", case
            hits += outcome.code != 0
        assert trials.finish("search", place) == "", (kind, number)
        shutil.rmtree(place)
    assert hits >= len(cases) // 2


def test_commands_that_met_a_full_disk_go_on(trials: Trials) -> None:
    reason = why_no_mount(trials.folder)
    cases = [case for case in plan("full disk", 4, ("search",)) if not (reason and case.way == "file system")]
    results = [trials.attempt(case) for case in cases]
    assert [result for result in results if result.wrong] == []
    assert any(result.hit for result in results)
