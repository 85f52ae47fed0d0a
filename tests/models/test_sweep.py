"""Every causal model type of the installed transformers works or is refused in our words, as docs/models.md says."""

import re
from pathlib import Path

import families
import pytest
import sweep
import torch
import transformers

PAGE = sweep.PAGE.read_text(encoding="utf-8")


def check_versions() -> None:
    """Skip where the page is of other versions."""
    versions = re.search(r"transformers (\S+) \(torch ([^\s)]+)\)", PAGE)
    assert versions
    here = (transformers.__version__, torch.__version__.partition("+")[0])
    if versions.groups() != here:
        pytest.skip(f"docs/models.md is of transformers and torch {versions.groups()}, here are {here}")


@pytest.mark.slow
@pytest.mark.parametrize("family", families.TYPES)
def test_family(family: str, tmp_path: Path) -> None:
    """Its steps are right or refused, and the page's row says so."""
    outcome = sweep.try_family(family, tmp_path)
    assert not outcome.failed
    check_versions()
    verdict, reason = sweep.describe(outcome)
    if verdict == "not built":
        assert f"* {family}: " in PAGE.partition("## Not built")[2]
    elif verdict == "no RoPE":
        without = PAGE.partition("## Without RoPE")[2].partition("##")[0]
        assert family in re.findall(r"[\w-]+", without)
    else:
        assert f"| {family} | {verdict} | {reason} |" in PAGE.splitlines()


def test_the_page_counts_its_own_rows() -> None:
    """And names every model type of the installed transformers once."""
    check_versions()
    rows = re.findall(r"^\| ([\w-]+) \| (works|partly|refused|fails) \|", PAGE, re.MULTILINE)
    verdicts = [verdict for _, verdict in rows]
    without = re.findall(r"[\w-]+", PAGE.partition("## Without RoPE\n")[2].partition("##")[0])
    unbuilt = re.findall(r"^\* ([\w-]+):", PAGE.partition("## Not built")[2], re.MULTILINE)
    assert sorted([name for name, _ in rows] + without + unbuilt) == sorted(families.TYPES)
    counts = [verdicts.count(name) for name in ("works", "partly", "refused", "fails")]
    stated = re.findall(r"\d+", PAGE.partition("\nOf ")[2].partition("be built.")[0])
    assert [int(number) for number in stated] == [len(rows), *counts, len(without), len(unbuilt)]


@pytest.mark.parametrize("family", sorted(families.NAMED_ALONE))
def test_families_that_only_name_rope_are_blind_to_positions(family: str) -> None:
    """Their logits stay to the bit where tokens stand three times as far apart; those of RoPE do not."""
    ids = torch.arange(1, 21)[None]
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    for name, blind in ((family, True), ("llama", False)):
        network = families.build_network(name)
        with torch.inference_mode():
            near, far = (network(position_ids=step * torch.arange(20)[None], **given).logits for step in (1, 3))
        assert torch.equal(near, far) == blind
