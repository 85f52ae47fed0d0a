"""A loaded model gives finite logits, and rescaled RoPE reaches them."""

import numpy as np
import torch
import transformers

from longrope.errors import ModelError, converting_errors
from longrope.models.language_model import LanguageModel
from longrope.models.rescaling import rescaled
from longrope.rope import RescaleFactors


def check_moves_logits(model: LanguageModel) -> None:
    """Raise ModelError if a first pass fails or its logits are not finite, or if factors do not reach the logits.

    They do not where the library has stopped calling the rotary module that the model holds.
    """
    tokens = torch.arange(16, device=model.device)[None] % model.network.config.vocab_size
    far = tuple(np.linspace(2, 4, model.spec.num_pairs).tolist())
    factors = RescaleFactors(far, model.spec.trained_window, model.spec.fingerprint)
    with (
        converting_errors(
            ModelError,
            f"The first pass of {model.name!r} fails",
            "A model that transformers can run on this device is needed.",
            "Try it in plain transformers; LONGROPE_DEBUG=1 shows the traceback.",
        ),
        torch.inference_mode(),
    ):
        before = model.network(tokens, use_cache=False).logits
        with rescaled(model, factors):
            after = model.network(tokens, use_cache=False).logits
    if not before.float().logsumexp(-1).isfinite().all():
        raise ModelError(
            f"The logits of {model.name!r} are not finite in {before.dtype}.",
            "Every loss of such a model would be NaN or infinite; all must be finite numbers.",
            "Try another --dtype: float32, or bfloat16, which has its range.",
        )
    if torch.equal(before, after):
        raise ModelError(
            f"Rescaled RoPE does not reach the logits of {model.name!r}.",
            f"transformers {transformers.__version__} must call the rotary module that the model holds.",
            "Use another version of transformers, and please report this model type.",
        )
