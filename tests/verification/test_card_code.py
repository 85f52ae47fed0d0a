"""The lines of the card for two lists, in transformers 4: what is read after them grows past the switch rightly."""

import subprocess
from pathlib import Path

import pico
import pytest

from longrope.verification.clients import CLIENTS
from longrope.verification.environments import cache_folder, clean_environment, find_python

CHECK = """
import torch

ids = torch.randint(1, 320, (1, 80), generator=torch.Generator().manual_seed(3))
plain = AutoModelForCausalLM.from_pretrained("this-folder")
for network in (model.eval(), plain.eval()):
    with torch.inference_mode():
        cache = network(ids[:, :60], use_cache=True).past_key_values
        rest, whole = network(ids[:, 60:], past_key_values=cache).logits, network(ids).logits[:, 60:]
    print(((rest - whole).abs().max() / whole.std()).item())
"""


@pytest.mark.slow
def test_the_lines_of_the_card_do_in_transformers_4(exported: dict[str, Path]) -> None:
    """A cache of 60 tokens, continued to 80, beside a pass over all; the lists switch at 64, which the lines undo."""
    assert pico.WINDOW == 64
    code = (exported["two"] / "README.md").read_text().split("```python\n")[1].split("```")[0] + CHECK
    code = code.replace("this-folder", str(exported["two"]))
    command = [str(find_python(CLIENTS["transformers-4.57"], cache_folder())), "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environment(), timeout=240)
    with_lines, plain = map(float, done.stdout.split())
    assert with_lines < 1e-4
    assert plain > 1e-2
