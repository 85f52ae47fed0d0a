"""docs/2048k.md: tables of records that do not exist say so; tables of records that do have their numbers."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import tables_million as million
from documents import ROOT, words
from plots_million import million_pictures
from tables_cells import Records
from tables_headline import headline_table

from longrope.lengths import format_tokens
from longrope.models import load_model
from longrope.recipe import load_recipe
from longrope.runs.records import Score, TrainStep, read_records
from longrope.tuning.adapters import chosen_weights

VALUES = {
    "prefix-perplexity": 12.345,
    "far-context": 0.98765,
    "last-tokens-32767": 13.0,
    "prose-needle": 0.87,
    "many-passkeys": 0.96,
}


def write(folder: Path, run: str, method: str, lengths: tuple[int, ...], **values: float) -> None:
    (folder / run).mkdir(parents=True, exist_ok=True)
    fixed: dict[str, Any] = dict.fromkeys(("num_tokens", "num_windows", "seed"), 1) | {"seconds": 1.0, "model": "m"}
    with (folder / run / "scores.jsonl").open("a") as out:
        for metric, value in values.items():
            for at in lengths:
                texts = f"{metric} {at if 'needle' in metric or 'passkeys' in metric else ''}"
                given = fixed | {"texts_fingerprint": texts, "factors_fingerprint": method}
                score = Score(metric, value, value, value, method=method, context_tokens=at, **given)
                out.write(json.dumps(asdict(score)) + "\n")


def row(table: str, begins: str) -> list[str]:
    (found,) = [line for line in table.splitlines() if line.startswith(f"| {begins} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_places_without_records_say_so(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert row(headline_table(records), "Gemma-3-270M, perplexity")[1:] == [million.NONE] * 4
    assert row(headline_table(records), "SmolLM2-135M, passkeys, one a text")[1:] == [million.NONE] * 4
    for name in ("length", "untrained", "training", "answers", "needles", "far"):
        assert million.NONE in getattr(million, f"{name}_table")(records)


def test_places_have_the_numbers_of_the_records(tmp_path: Path) -> None:
    records = Records(tmp_path)
    write(tmp_path, "gemma3-2048k", "longrope-tuned", (4096, 2097152), **VALUES)
    write(tmp_path, "gemma3-2048k", "none", (4096,), **{"prefix-perplexity": 99.0})
    headline = headline_table(records)
    assert row(headline, "Gemma-3-270M, perplexity")[1:] == ["12.35", million.NONE, million.NONE, "12.35"]
    assert row(headline, "Gemma-3-270M, passkeys, 20 a text")[1:] == ["96%", million.NONE, million.NONE, "96%"]
    assert row(headline, "Gemma-3-270M, needles in prose")[1:] == ["87%", million.NONE, million.NONE, "87%"]
    assert row(headline, "SmolLM2-135M, perplexity")[1:] == [million.NONE] * 4
    write(tmp_path, "gemma3-2048k-passkeys", "ntk-critical", (2097152,), passkey=0.9)
    headline = headline_table(records)
    assert row(headline, "Gemma-3-270M, passkeys, one a text")[1:] == [million.NONE, million.NONE, million.NONE, "90%"]
    lengths = million.length_table(records)
    assert row(lengths, "2,048k")[1:] == ["12.35", "13.00", "0.988", "87%", "96%", "90%"]
    assert lengths.splitlines()[0].count("|") == 8, "columns without records are left out"
    assert len(lengths.splitlines()) == 4, "so are lengths"
    write(tmp_path, million.UNTRAINED, "yarn", (524288,), **{"last-tokens-32767": 2125.0, "prose-needle": 0.125})
    assert row(million.untrained_table(records), "YaRN")[3:5] == ["2125", "0 of 1"]


def test_what_was_measured_apart_stands_beside_the_run(tmp_path: Path) -> None:
    """Controls in the table by length, further lengths and the factors of the run in the table without training."""
    records = Records(tmp_path)
    write(tmp_path, "gemma3-2048k", "longrope-tuned", (131072,), **VALUES)
    write(tmp_path, "gemma3-2048k-control", "ntk-critical", (131072,), **{"far-shuffled": 0.9, "far-context": 2.0})
    lengths = million.length_table(records)
    assert "of shuffled far context's" in lengths.splitlines()[0]
    assert row(lengths, "128k")[2:5] == ["13.00", "0.988", "0.900"], "the run's own ratio, and the control"
    write(tmp_path, "gemma3-2048k-lengths", "ntk-critical", (131072, 524288), **{"prose-needle": 0.75, "passkey": 0.1})
    lengths = million.length_table(records)
    assert row(lengths, "128k")[-2:] == ["87%", "96%"]
    assert row(lengths, "512k")[-2:] == ["75%", ""], "what the run itself has not measured"
    write(tmp_path, million.UNTRAINED, "critical", (131072, 524288), **{"last-tokens-32767": 15.0})
    write(tmp_path, million.FURTHER[0], "critical", (1048576,), **{"last-tokens-32767": 16.0})
    write(tmp_path, "gemma3-2048k", "none", (131072,), **{"last-tokens-32767": 17.0})
    write(tmp_path, million.BEFORE, "ntk-critical", (131072,), **{"last-tokens-32767": 14.0})
    table = million.untrained_table(records)
    assert row(table, "original model")[1] == "17.00"
    assert row(table, "critical-pair rule")[1::2] == ["15.00", "15.00", "16.00", million.NONE]
    assert row(table, "NTK by critical dimension, factors for 2,048k")[1] == "14.00"
    assert row(table, "the same, trained")[1:3] == ["13.00", "1 of 1"]


def test_aims_are_held_to_the_records(tmp_path: Path) -> None:
    """Perplexities are to be small, shares large, the least of all lengths counts; a missing score is not measured."""
    records = Records(tmp_path)
    share = "needles in prose at 2,048k, of those at 32k"
    assert row(million.aims_table(records), share)[1:] == ["at least 90%", million.NONE, ""]
    write(tmp_path, "gemma3-2048k", "longrope-tuned", (32768,), **{"prose-needle": 0.9, "ratio-to-none": 1.006})
    write(tmp_path, "gemma3-2048k", "longrope-tuned", (2097152,), **{"prose-needle": 0.7, "far-context-original": 0.9})
    write(tmp_path, "gemma3-2048k-passkeys", "ntk-critical", (32768,), passkey=1.0)
    write(tmp_path, "gemma3-2048k-passkeys", "ntk-critical", (131072,), passkey=0.9)
    write(tmp_path, million.SMALL, "longrope-tuned", (1048576,), **{"far-context": 1.03})
    table = million.aims_table(records)
    assert row(table, share)[1:] == ["at least 90%", "78%", "no"]
    assert row(table, "needles in prose at every length up to 512k")[2:] == ["at least 90%, 1 length", "so far"]
    write(tmp_path, "gemma3-2048k", "longrope-tuned", (2**19,), **{"prose-needle": 0.95})
    table = million.aims_table(records)
    assert row(table, "needles in prose at every length up to 512k")[2:] == ["at least 90%, 2 lengths", "yes"]
    assert row(table, "passkeys, one a text, at every length")[2:] == ["at least 90%, 2 lengths", "no"]
    assert row(table, "texts of 32k, of the original's perplexity")[1:3] == ["at most 1.005", "1.006 (1.006-1.006)"]
    assert [line.split(" | ")[-1] for line in table.splitlines()[2:4]] == ["yes |", " |"]
    assert row(table, "SmolLM2-135M, last 8,191 of 1,048,576 tokens, of near context's")[3] == "yes"


def test_needles_of_both_forms_and_single_passes(tmp_path: Path) -> None:
    records = Records(tmp_path)
    write(tmp_path, "gemma3-2048k", "none", (32768,), **{"prose-needle": 0.0})
    write(tmp_path, million.REWORDED, "ntk-critical", (32768,), **{"reworded-questions": 0.0})
    write(tmp_path, million.WORDED, "none", (1024,), **{"reworded-questions": 1.0})
    table = million.needles_table(records)
    assert table.splitlines()[0] == "|  | 1k | 32k |"
    assert row(table, "needles in prose: original")[1:] == [million.NONE, "0 of 1"]
    assert row(table, "reworded questions: trained to 2,048k")[1:] == [million.NONE, "0 of 1"]
    assert "codes" not in table, "arms without records are left out"
    write(tmp_path, "gemma3-needles-codes", "longrope-tuned", (65536,), **{"reworded-questions": 1.0})
    table = million.needles_table(records)
    assert row(table, "reworded questions: 64k alone, codes")[1:] == [million.NONE, million.NONE, "1 of 1"]
    read = {"last": 9.0, "last_4096": 8.5, "seconds": 200.4, "peak_bytes": 3 * 2**30}
    line: dict[str, Any] = {
        "tokens": 2**22,
        "factors_window": 2**21,
        "processes": 2,
        "near": read | {"last": 10.0},
        "whole": read,
    }
    (tmp_path / "gemma3-2048k/far.jsonl").write_text(json.dumps(line) + "\n")
    assert row(million.far_table(records), "4,194,304")[1:] == ["2,048k", "2", "9.00", "8.50", "0.900", "200", "3"]


def test_pictures_have_the_numbers_of_the_records(tmp_path: Path) -> None:
    """Both methods at their lengths; each depth of each length; and no picture without the trained model."""
    write(tmp_path, million.UNTRAINED, "yarn", (131072, 2097152), **VALUES)
    assert million_pictures(tmp_path) == {}
    depths = {f"prose-needle-depth-{depth}": float(depth) for depth in ("0.05", "0.95")}
    write(tmp_path, "gemma3-2048k", "longrope-tuned", (131072, 2097152), **VALUES, **depths)
    found = million_pictures(tmp_path)
    pictures = {path.name: ET.fromstring(text) for path, text in found.items()}  # noqa: S314  # they are our own
    assert set(pictures) == {"2048k-by-length.svg", "2048k-depths.svg"}
    lines, heat = (json.loads(root.findtext(".//{*}desc") or "") for root in pictures.values())
    assert set(lines) == {"last-tokens-32767", "prose-needle"}
    assert [len(ways) for ways in lines.values()] == [2, 2]
    assert "YaRN" in lines["prose-needle"]
    assert {tuple(map(tuple, points)) for points in lines["prose-needle"].values()} == {
        ((131072, 0.87), (2097152, 0.87))
    }
    assert heat == {
        "Gemma-3-270M": {f"{share:.0%} of {at}": share for at in ("128k", "2048k") for share in (0.05, 0.95)}
    }
    write(tmp_path, "gemma3-2048k-lengths", "ntk-critical", (1048576,), **VALUES, **depths)
    _, (path, text) = million_pictures(tmp_path).items()
    assert (path.name, text.count("of 1024k")) == ("2048k-depths.svg", 2), "weights that were measured apart, too"
    write(tmp_path, million.YARN, "longrope-tuned", (131072,), **VALUES, **depths)
    heat = json.loads(ET.fromstring(million_pictures(tmp_path)[path]).findtext(".//{*}desc") or "")  # noqa: S314
    assert list(heat) == ["Gemma-3-270M", "Gemma-3-270M, YaRN's factors"]
    assert len(heat["Gemma-3-270M, YaRN's factors"]) == 2


def test_trainings_with_other_factors_stand_side_by_side(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert million.NONE in million.alike_table(records)
    write(tmp_path, million.GEMMA, "longrope-tuned", (32768,), **{"prose-needle": 1.0, "ratio-to-none": 0.9})
    write(tmp_path, million.YARN, "longrope-tuned", (32768,), **{"prose-needle": 0.0, "ratio-to-none": 1.1})
    write(tmp_path, f"{million.YARN}-lengths", "yarn", (2097152,), **{"far-context-original": 0.8})
    table = million.alike_table(records)
    assert row(table, "32k")[3:] == ["", "", "0.900", "1.100", "1 of 1", "0 of 1", "", ""]
    assert row(table, "2,048k")[3:5] == ["", "0.800"]
    aim = "Gemma-3-270M, last 32,767 of 2,097,152 tokens, of the original's in its window, YaRN's factors"
    assert row(million.aims_table(records), aim)[2:] == ["0.800 (0.800-0.800)", "yes"]
    write(tmp_path, million.SMALL, "longrope-tuned", (8192,), **{"prose-needle": 1.0, "far-context": 0.9})
    write(tmp_path, million.SMALL_YARN, "longrope-tuned", (8192,), **{"prose-needle": 0.0, "far-context": 1.2})
    small = million.alike_table(records, million.SMALL, "critical")
    assert row(small, "8k")[1:3] + row(small, "8k")[7:9] == ["0.900", "1.200", "1 of 1", "0 of 1"]
    assert "of near context's, critical | of near context's, YaRN" in small
    write(tmp_path, million.SMALL_YARN, "longrope-tuned", (1048576,), **{"far-context": 1.3})
    aim = "SmolLM2-135M, last 8,191 of 1,048,576 tokens, of near context's, YaRN's factors"
    assert row(million.aims_table(records), aim)[2:] == ["1.300 (1.300-1.300)", "no"]


def test_trainings_and_answers(tmp_path: Path) -> None:
    stage = tmp_path / "gemma3-2048k/stages/2-tune-256k-abc"
    stage.mkdir(parents=True)
    steps = [{"seconds": s, "memory_gib": 30.0 + s, "num_tokens": 262143} for s in (9.0, 2.0, 3.0, 4.0)]
    (stage / "train.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    table = million.training_table(Records(tmp_path))
    assert row(table, "Gemma-3-270M, tune 256k")[1:] == ["4", "262,143", "3.0", "39 GiB", "0.3"]
    assert row(table, "SmolLM2-135M")[1] == million.NONE
    line = {"prompt_tokens": 1100000, "depth": 0.5, "eight_bit": True, "offload": False, "prefill_seconds": 21.4}
    line |= {"decode_seconds": 1.5, "new_tokens": 10, "cache_bytes": 2**31, "peak_bytes": 2**33, "found": True}
    (tmp_path / "gemma3-2048k/answers.jsonl").write_text(json.dumps(line) + "\n")
    found = row(million.answers_table(Records(tmp_path)), "1,100,000")
    assert found[1:] == ["0.50", "NTK by critical dimension", "8 bits", "21", "0.15", "2.0", "8.0", "yes"]
    (tmp_path / million.YARN).mkdir()
    (tmp_path / million.YARN / "answers.jsonl").write_text(json.dumps(line | {"prompt_tokens": 1200000}) + "\n")
    assert row(million.answers_table(Records(tmp_path)), "1,200,000")[1:3] == ["0.50", "YaRN"]


def test_what_the_page_computes() -> None:
    """Work, weights and cache of Gemma-3-270M by its sizes: 4 query heads and one key/value head of 256, 640 wide."""
    text, heads, dim, hidden, tokens = words("docs/2048k.md"), 4, 256, 640, 2**21
    assert f"{3 * 2 * heads * dim * tokens**2:.1e}".replace("e+", "e") == "2.7e16"
    assert "2.7e16 floating-point operations of attention, a sixth" in text
    attention = hidden * dim * (2 * heads + 2) + 2 * dim
    assert f"{3 * attention / 1e6:.1f} of 268 million weights" in text
    assert f"in {round(2 * 3 * attention / 1e6)} MB" in text
    cached = 3 * 2 * dim * 2
    assert f"{cached // 2**10} KiB a token in 16 bits, {cached * tokens // 2**30} GiB for 2,097,152 tokens" in text


def test_the_page_follows_the_recipe() -> None:
    recipe, text = load_recipe(ROOT / "recipes/gemma3-2048k.toml"), words("docs/2048k.md")
    first, *trainings, _ = recipe.stages
    assert (first.method, [format_tokens(s.tune) for s in trainings]) == ("ntk-critical", ["64k", "256k", "512k"])
    steps = [stage.steps for stage in trainings]
    assert "{} steps on windows of 64k, {} on windows of 256k, {} on windows of 512k".format(*steps) in text
    assert (recipe.tune.needle_kinds, recipe.measure.needles, recipe.measure.passkeys_per_text) == ("varied", 60, 20)
    assert (recipe.tune.short_share, recipe.measure.windows) == (0.2, 3)
    assert all(f"`{name}`" in text for name in recipe.measure.metrics if name != "prose-needle")


def test_attention_is_counted_as_the_training_counts_it() -> None:
    """The bundled model's layers all see the whole window: matrices of four projections alone."""
    network = load_model("nano", device="cpu").network
    chosen, width = chosen_weights(network, ("global-attention",)), network.config.hidden_size
    assert sum(w.numel() for w in chosen.values()) >= network.config.num_hidden_layers * 2 * width * width


def smollm2_text() -> str:
    """Its section of the page."""
    return words("docs/2048k.md").partition("### SmolLM2-135M")[2].partition("###")[0]


def count(scores: dict[tuple[str, int], Score], metric: str, at: int) -> int:
    """How many were found."""
    score = scores[metric, at]
    return round(score.value * score.num_windows)


def interval(score: Score, digits: int = 3) -> str:
    return f"{score.value:.{digits}f} ({score.low:.{digits}f}-{score.high:.{digits}f})"


def steps_of(run: str) -> list[TrainStep]:
    """The steps of a training, in their order."""
    logs = sorted((ROOT / "results" / run).glob("stages/*/train.jsonl"))
    return [step for path in logs for step in read_records(path, TrainStep)]


def took(run: str) -> tuple[int, str]:
    """The steps of a training, and their minutes as the page writes them."""
    steps = steps_of(run)
    return len(steps), f"{sum(step.seconds for step in steps) / 60:.1f} minutes"


def test_what_is_said_of_all_weights_follows_from_the_records() -> None:
    """SmolLM2's training of all weights: the shares, the counts, the minutes."""
    text, records = smollm2_text(), Records(ROOT / "results")
    own, original = (records.scores(million.SMALL, method) for method in ("longrope-tuned", "none"))
    steps, minutes = took(million.SMALL)
    assert f"all weights in {steps} steps, {minutes}" in text
    assert f"trained for {float(minutes.split()[0]):.0f} minutes and reading 1,048,576" in words("README.md")
    ratios = {at: own["far-context", at] for at in (32768, 2**17, 2**19, 2**20)}
    assert f"The last 8,191 tokens have {interval(ratios[2**20])} times the perplexity" in text
    for at in (2**19, 2**17):
        assert f"With {at:,} tokens they have {interval(ratios[at])}".lower() in text.lower()
    assert all(ratio.low < 1 < ratio.high for ratio in ratios.values()), "neither a gain nor a loss"
    last = {at: own["far-context-last-4096", at] for at in (2**17, 2**19, 2**20)}
    assert last[2**17].low < 1 < last[2**19].low
    assert f"({interval(last[2**19]).replace(' (', ', ')}, and {interval(last[2**20])} at 1,048,576" in text
    assert f"That is {interval(own['far-context-original', 2**20])} of the perplexity that the original has" in text
    near = own["last-tokens-8191", 8192].value / original["last-tokens-8191", 8192].value
    assert f"the trained weights have {near:.3f} of it" in text
    found = [count(own, "prose-needle", at) for at in (2**20, 32768, 8192)]
    assert f"{found[0]} of 60 at 1,048,576 tokens, {found[1]} at 32,768, {found[2]} at 8,192" in text
    assert f"(the original {count(original, 'prose-needle', 8192)})" in text
    kinds = [count(own, f"prose-needle-{kind}", 2**20) for kind in ("number", "name", "sentence")]
    assert kinds == [15, 0, 0]
    assert "15 of 20 numbers, and no name and no sentence" in text
    alike = [count(scores, "many-passkeys", at) for scores, at in ((own, 2**20), (own, 8192), (original, 8192))]
    assert f"it finds {alike[0]} there, and {alike[1]} at 8,192 (the original {alike[2]})" in text
    assert all(own["passkey", at].value == 1 for at in (4096, 8192, 32768, 131072))
    assert {round(own["ratio-to-none", at].value, 2) for at in (4096, 8192)} == {0.96}
    assert "Short texts have 0.96 times the original's perplexity" in text
    both = f"{interval(ratios[2**20], 2)} times its perplexity with 8,192"
    readme = f"has {both} ({last[2**20].value:.2f} over the last 4,096), and finds {found[0]} of 60 needles"
    assert readme in words("README.md")


def test_what_is_said_of_the_attention_alone_follows_from_the_records() -> None:
    """The counts, the shares and the minutes of SmolLM2's other training."""
    text, records = smollm2_text(), Records(ROOT / "results")
    own = records.scores(million.ATTENTION, "longrope-tuned")
    steps, minutes = took(million.ATTENTION)
    assert f"the attention's weights alone in {steps} steps, {minutes}" in text
    found = [count(own, "prose-needle", at) for at in (2**20, 32768, 8192)]
    assert f"{found[0]} of 40 needles are found at 1,048,576 tokens" in text
    assert f"{found[1]} at 32,768 and {found[2]} at 8,192" in text
    assert all(own[f"prose-needle-{kind}", 2**20].value > 0 for kind in ("name", "sentence"))
    assert f"it finds {count(own, 'many-passkeys', 2**20)} at 1,048,576 tokens" in text
    alone = records.scores(f"{million.ATTENTION}-passkeys", "critical")
    assert all(alone["passkey", at].value == 1 for at in (4096, 8192, 32768, 131072))
    far = {at: own["far-context", at].value for at in (32768, 2**20)}
    assert f"have {far[32768]:.2f} times the perplexity of near context with 32,768 tokens" in text
    assert f"and {far[2**20]:.2f} times with 1,048,576" in text
    further = records.scores(million.FAR, "critical")["far-context", 2**21]
    assert f"the ratio to near context is {further.value:.2f} on one window" in text
    short = [own["ratio-to-none", at].value for at in (8192, 4096)]
    assert f"({short[0]:.2f} to {short[1]:.2f} with the attention trained alone)" in text
    exports = [records.content(f"{run}/export.json") for run in (million.SMALL, million.ATTENTION)]
    single = [export["perplexity_single"] / export["perplexity_original"] for export in exports]
    assert f"have {single[0]:.2f} ({single[1]:.2f}) times what the same weights have with the model's own RoPE" in text
    assert all(f"texts of {export['short_tokens']:,} tokens have {single[0]:.2f}" in text for export in exports)


def test_what_is_said_of_factors_trained_alike_follows_from_the_records() -> None:
    """SmolLM2 with YaRN's: perplexity is behind, nothing that is found is separated, every step's loss is higher."""
    text, records = smollm2_text(), Records(ROOT / "results")
    rule, yarn = (records.scores(run, "longrope-tuned") for run in (million.SMALL, million.SMALL_YARN))
    far, short = (yarn["far-context", at] for at in (2**20, 2**15))
    assert f"tokens have {interval(far)} times the perplexity of near context, those of 32,768" in text
    assert f"already {interval(short)}." in text
    assert all(yarn["far-context", at].low > rule["far-context", at].high for at in (2**17, 2**19, 2**20))
    pairs = [(rule[key], yarn[key]) for key in yarn if key[0] in ("prose-needle", "many-passkeys")]
    alike = [one.texts_fingerprint == two.texts_fingerprint for one, two in pairs]
    assert alike == [one.low <= two.high and two.low <= one.high for one, two in pairs] == [True] * 12
    ratios = (yarn["ratio-to-none", at].value for at in (8192, 4096))
    assert "have {:.3f} and {:.3f} times the original's perplexity".format(*ratios) in text
    export = records.content(f"{million.SMALL_YARN}/export.json")
    ratio = export["perplexity_single"] / export["perplexity_original"]
    assert f"those of 2,048 tokens have {ratio:.2f} times what the same weights have without them" in text
    factors = [records.content(f"{run}/factors.json")["tiers"][-1] for run in (million.SMALL_YARN, million.SMALL)]
    assert "is {:.3f}, the critical-pair rule's {:.3f}".format(*(one["attention_factor"] for one in factors)) in text
    losses = [[step.loss_nats for step in steps_of(run)] for run in (million.SMALL_YARN, million.SMALL)]
    assert "needles, added) of {:.1f} nats, the other at {:.1f}".format(*(own[0] for own in losses)) in text
    assert [len(own) for own in losses] == [420, 420]
    assert all(one > two for one, two in zip(*losses, strict=True))
