"""A scanned baseline stands beside the searches in the table of costs and does not change what they are compared by."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from handmade import read_page
from valleys import trial

from longrope.cli.console import print_costs
from longrope.labels import NOT_REACHED
from longrope.report import write_report
from longrope.runs.run_dir import RunDir
from longrope.search.cost import SearchCost, compare_costs

SEARCHED = [
    trial("gradient", "validation", "ntk", 1.0, 10, 1.0),
    trial("gradient", "validation", "gradient", 4.0, 10, 1.0),
    trial("gradient", "validation", "gradient", 3.0, 10, 1.0),
    trial("evolution", "search", "mutation", 2.0, 20, 2.0),
    trial("evolution", "validation", "mutation", 3.5, 10, 2.0),
]


def scanned(*losses: float) -> list[SearchCost]:
    """The costs of the two searches and of a scan whose finalists have these losses; two passes come before them."""
    scan = [trial("scan", "validation", "ntk", 1.0, 10, 1.0), trial("scan", "search", "grid", 2.0, 5, 0.5)]
    scan += [trial("scan", "validation", "finalist", loss, 10, 1.0) for loss in losses]
    return compare_costs([*SEARCHED, *(replace(one, method="ntk-scan") for one in scan)])


@pytest.mark.parametrize("losses", [(9.0,), (2.0,), (3.5, 2.5)])
def test_a_scan_does_not_change_the_loss_that_the_searches_have_in_common(losses: tuple[float, ...]) -> None:
    *searches, scan = scanned(*losses)
    assert searches == compare_costs(SEARCHED)
    assert [cost.common_loss_nats for cost in (*searches, scan)] == [3.5] * 3
    assert (scan.method, scan.validation_loss_nats) == ("ntk-scan", min(losses))


def test_a_scan_that_reaches_the_common_loss_is_counted_up_to_there() -> None:
    *_, scan = scanned(3.6, 3.5, 2.0)
    assert (scan.trials_to_common, scan.token_passes_to_common, scan.seconds_to_common) == (4, 35, 3.5)
    assert (scan.trials, scan.token_passes, scan.seconds) == (5, 45, 4.5)


def test_a_scan_that_stays_above_it_has_not_reached_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    costs = scanned(9.0)
    assert (costs[-1].trials_to_common, costs[-1].token_passes_to_common, costs[-1].seconds_to_common) == (None,) * 3
    print_costs(costs)
    assert capsys.readouterr().out.count(NOT_REACHED) == 3
    run = RunDir(tmp_path / "run")
    run.scores.touch()
    run.write_text(run.costs, json.dumps([asdict(cost) for cost in costs]))
    rows = {row[0]: row[-1] for row in read_page(write_report(run)).tables["What the searches took"]}
    assert rows["loss that all searches reached, nats"] == "3.5"
    assert rows["trials to that loss"] == rows["seconds to that loss"] == NOT_REACHED


def test_a_scan_alone_has_its_own_loss() -> None:
    (cost,) = compare_costs([replace(SEARCHED[2], method="ntk-scan")])
    assert (cost.common_loss_nats, cost.trials_to_common) == (3.0, 1)
