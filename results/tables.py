"""Write the tables of README.md, docs/ and results/README.md from the committed records: ``python results/tables.py``.

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``; a test runs this and expects no change. The tables
themselves are made by topic in the modules ``tables_*`` beside this one.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import tables_bundled as bundled
import tables_evidence as evidence
import tables_gemma as gemma
import tables_headline as headline
import tables_million as million
import tables_reliability as reliability
import tables_searches as searches
import tables_speed as speed
import tables_steps as steps
import tables_training as training
import tables_uses as uses
import tables_verify as verify
from tables_cells import ROOT, Records
from tables_seeds import seeds_table

Maker = Callable[[Records], str]
TABLES: dict[str, Maker] = {
    "summary": evidence.summary_table,
    "compare": searches.compare_table,
    "ratios": searches.ratio_table,
    "all-ratios": searches.all_ratios_table,
    "earlier": partial(searches.earlier_table, 20),
    "earlier-50": partial(searches.earlier_table, 50),
    "cost": searches.cost_table,
    "cost-needles": partial(searches.cost_table, run="smollm2-64k-needles"),
    "evidence": evidence.evidence_table,
    "gemma": gemma.compare_table,
    "gemma-ratios": gemma.ratio_table,
    "gemma-128k": gemma.longer_table,
    "gemma-cost": partial(searches.cost_table, run=gemma.RUN),
    "gemma-pass": speed.gemma_table,
    "2048k": headline.headline_table,
    "2048k-accuracy": headline.accuracy_table,
    "2048k-lengths": million.length_table,
    "2048k-lengths-yarn": partial(million.length_table, run=million.YARN),
    "2048k-alike": million.alike_table,
    "2048k-seeds": seeds_table,
    "2048k-alike-smollm2": partial(million.alike_table, run=million.SMALL, formula="critical"),
    "2048k-lengths-smollm2": partial(million.length_table, run=million.SMALL),
    "2048k-lengths-smollm2-attention": million.attention_length_table,
    "2048k-aims": million.aims_table,
    "2048k-untrained": million.untrained_table,
    "2048k-needles": million.needles_table,
    "2048k-far": million.far_table,
    "2048k-training": million.training_table,
    "2048k-answers": million.answers_table,
    "verify": verify.verify_table,
    "depths": searches.depth_table,
    "uses": uses.uses_table,
    "exports": searches.exports_table,
    "variants": searches.variants_table,
    "probe": searches.probe_table,
    "tuned": training.tuned_table,
    "further": training.further_table,
    "gradient-kernels": speed.gradient_kernels_table,
    "steps": steps.steps_table,
    "passes": steps.passes_table,
    "kernel-others": steps.other_kernels_table,
    "kernel-speeds": steps.kernels_table,
    "aims": steps.aims_table,
    "two-train": training.two_train_table,
    "demo": bundled.demo_table,
    "win": bundled.win_table,
    "nano-ruler": bundled.nano_ruler_table,
    "nano-arms": evidence.nano_arms_table,
    "nano-arms-1": partial(evidence.nano_arms_table, seed="@1"),
    "nano-arms-2": partial(evidence.nano_arms_table, seed="@2"),
    "nano-target": partial(evidence.nano_arms_table, run="nano-16k-target"),
    "nano-target-1": partial(evidence.nano_arms_table, seed="@1", run="nano-16k-target"),
    "nano-target-2": partial(evidence.nano_arms_table, seed="@2", run="nano-16k-target"),
    "evidence-twice": evidence.twice_table,
    "evidence-seeds": evidence.seeds_table,
    "evidence-measures": evidence.measures_table,
    "evidence-more": evidence.more_table,
    "near-exact": bundled.near_exact_table,
    "nano-search": bundled.nano_search_table,
    "ablations": bundled.ablations_table,
    "sizes": bundled.sizes_table,
    "paper": bundled.paper_table,
    "paper-other": bundled.paper_other_table,
    "extrapolated": bundled.extrapolated_table,
    "cache": bundled.cache_table,
    "pass": speed.pass_table,
    "pass-fa3": partial(speed.pass_table, name="h200-fa3", kernel="kernel FlashAttention 3"),
    "step": speed.step_table,
    "compiled": speed.compiled_table,
    "hopper": partial(speed.compiled_table, name="hopper"),
    "kernels": speed.kernels_table,
    "ranks": speed.ranks_table,
    "shared-gradient": speed.shared_profile_table,
    "quantized": speed.quantized_table,
    "llama": speed.llama_table,
    "interruptions": reliability.interruptions_table,
    "fuzz": reliability.fuzz_table,
    "growth": speed.growth_table,
    "cpu": speed.cpu_table,
}
FILES = (ROOT / "README.md", ROOT / "results" / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def with_tables(text: str, records: Records) -> str:
    """Return a text with each of its tables written anew."""
    return re.sub(
        r"(<!-- table (\S+) -->\n).*?(<!-- end -->)",
        lambda found: found[1] + TABLES[found[2]](records) + found[3],
        text,
        flags=re.DOTALL,
    )


def changed_files() -> dict[Path, str]:
    """Return the files whose tables are not those of the records, with the text that they should have."""
    texts = {path: path.read_text() for path in FILES}
    after = {path: with_tables(text, Records()) for path, text in texts.items()}
    return {path: text for path, text in after.items() if text != texts[path]}


if __name__ == "__main__":
    for file, text in changed_files().items():
        file.write_text(text)
        print(f"wrote {file.relative_to(ROOT)}")
