"""``longrope inspect`` reads the header of a GGUF file alone, and prints nothing but its answer."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pico
import pytest
from commands import Command
from gguf import GGUFWriter, RopeScalingType

from longrope.models import load_config
from longrope.pipeline import inspect


def save_large(path: Path) -> Path:
    """A file of 100,000 tokens whose weights are a hole of 6 GB: whoever reads them takes longer than any test."""
    writer = GGUFWriter(path, "llama")
    pico.describe_shape(writer, pico.make_config("llama", num_hidden_layers=2))
    writer.add_rope_dimension_count(8)
    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(4.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token {i}" for i in range(100_000)])
    writer.add_tensor_info("token_embd.weight", (100_000, 15_000), np.dtype(np.float32), 6 * 10**9)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, path.stat().st_size + 6 * 10**9 + 64)
    return path


def test_a_large_gguf_file_is_inspected_by_its_header(tmp_path: Path) -> None:
    path = save_large(tmp_path / "large.gguf")
    load_config(path)  # what is imported first is no part of this
    began = time.process_time()
    report = inspect(str(path))
    assert time.process_time() - began < 3
    assert (report["carried_scaling"], report["theta"]) == ("linear", 1e4)


@pytest.mark.slow
def test_nothing_but_the_answer_is_printed(tmp_path: Path) -> None:
    """No bar and no warning of transformers, by ``python -m longrope`` in a process of its own."""
    path = save_large(tmp_path / "large.gguf")
    done = subprocess.run(
        [sys.executable, "-m", "longrope", "inspect", str(path)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert "scaling: linear: the same divisors at every length" in done.stdout
    assert "choices: trained window 64, as the config states; if that is the window before" in done.stdout
    assert "steps: works: rescale, measure, search and tune, generate, export --to hf" in done.stdout


def test_lists_are_printed_by_lines(command: Command, pico_folder: Path) -> None:
    result = command("inspect", pico_folder)
    assert (result.code, result.err) == (0, "")
    assert "['" not in result.out
