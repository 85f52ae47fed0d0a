"""How weights are trained, as settings, and the paper's own."""

import math
from dataclasses import dataclass
from typing import Annotated

from longrope.errors import RecipeError
from longrope.settings import Count, CountOrZero, Settings, above, at_least, between, one_of

CODES, VARIED = NEEDLE_KINDS = ("codes", "varied")


@dataclass(frozen=True)
class TuneRecipe(Settings, section="tune"):
    """How weights are trained.

    Steps, batch, rate and decay are by default the paper's for Llama-2 at 128k (arXiv 2402.13753, section 4.1). For
    Mistral it has a constant rate of 1e-6 and batches of 64 windows of 16k.

    Attributes:
        window_tokens: length of the training windows; 0 takes the target window of the factors, or the trained window
            if there are none.
        steps: optimizer steps.
        batch_windows: windows of one step; its loss is the mean over all their scored tokens.
        windows_at_once: windows of a step that go through the model together; fewer take less memory. On a GPU, short
            windows that fit go together in any case, up to 65,536 tokens.
        learning_rate: the peak learning rate, reached when the warm-up ends.
        warmup_steps: steps of the warm-up, in which the rate rises evenly.
        schedule: ``linear`` or ``cosine`` decay to 0 after the warm-up, or ``constant``.
        weight_decay: weight decay of AdamW, for matrices only. Norms, biases and embeddings (and a head that shares
            them) have none.
        clip_norm: gradients whose norm over all weights is larger are scaled down to this norm; inf never scales them.
        checkpoint_every: steps between two checkpoints.
        recompute: compute activations a second time in the backward pass instead of keeping them.
        recompute_layers: for the recomputation, keep the hidden states of every n-th layer only, and compute the others
            again, which takes less memory and more time.
        offload: on GPUs, keep these hidden states in the CPU's memory; they are copied there and back while layers
            compute.
        prefer_documents: windows that lie within one document come first in every epoch; the rest of these documents,
            and short documents, follow, packed one after the other.
        isolate_documents: documents of a window do not see each other, and positions begin anew in each document. The
            first token of each document but the first is not scored. With ``needle_weight``, only documents of short
            windows are isolated (LongRoPE2).
        skipped_positions: a longer window whose positions the training windows imitate: each is cut in two at a random
            place, and its second part is moved a random number of positions further (PoSE, arXiv 2309.10400, section
            3). 0 skips none.
        short_share: share of the windows that are read as short ones of the model's trained window, with its own RoPE,
            among long ones with rescaled RoPE (mixed windows, LongRoPE2, arXiv 2502.20082, section 3.3). The rest of
            such a window is not read. With 1, the model is never trained with the factors.
        needle_weight: weight of the mean loss over answers about needles planted in the windows; 0 plants none.
        needle_kinds: ``codes`` plants eight codes of five digits in each long window; ``varied`` plants up to 32
            numbers, names and phrases about many things, in short windows, too (unless their documents are isolated).
        parameters: which weights are trained: patterns of their names, such as ``*.self_attn.*``, or
            ``global-attention``: the attention of the layers that see the whole window. With ``lora_rank``, these
            matrices get adapters. Without a pattern all weights are trained.
        lora_rank: train low-rank adapters of all linear layers but the head (LoRA) and merge them; 0 trains weights.
        lora_alpha: the scale of the adapters is alpha / rank; 0 takes twice the rank.
        lora_also: weights that are trained in full beside the adapters: some of ``norms`` and ``embeddings``.
    """

    window_tokens: Annotated[int, at_least(2, or_zero=True)] = 0
    steps: Count = 400
    batch_windows: Count = 32
    windows_at_once: Count = 1
    learning_rate: Annotated[float, above(0, 1)] = 2e-5
    warmup_steps: CountOrZero = 20
    schedule: Annotated[str, one_of("linear", "cosine", "constant")] = "linear"
    weight_decay: Annotated[float, at_least(0)] = 0.0
    clip_norm: Annotated[float, above(0, math.inf)] = 1.0
    checkpoint_every: Count = 100
    recompute: bool = True
    recompute_layers: Count = 1
    offload: bool = False
    prefer_documents: bool = False
    isolate_documents: bool = False
    skipped_positions: CountOrZero = 0
    short_share: Annotated[float, between(0, 1)] = 0.0
    needle_weight: Annotated[float, at_least(0)] = 0.0
    needle_kinds: Annotated[str, one_of(*NEEDLE_KINDS)] = CODES
    parameters: tuple[str, ...] = ()
    lora_rank: CountOrZero = 0
    lora_alpha: CountOrZero = 0
    lora_also: tuple[Annotated[str, one_of("norms", "embeddings")], ...] = ()

    def check(self) -> None:
        """Refuse settings of a training that exclude each other (raises RecipeError naming both)."""
        self._check_adapters()
        if self.warmup_steps >= self.steps:
            raise RecipeError(
                f"tune.warmup_steps = {self.warmup_steps} with tune.steps = {self.steps}.",
                "The warm-up must end before the last step.",
                "Give more steps, or fewer of warm-up.",
            )
        if self.windows_at_once > self.batch_windows:
            raise RecipeError(
                f"tune.windows_at_once = {self.windows_at_once} with tune.batch_windows = {self.batch_windows}.",
                "No more windows than a batch has can go through the model together.",
                "Give a smaller tune.windows_at_once.",
            )
        for key, default in (("recompute_layers", 1), ("offload", False)):
            if getattr(self, key) != default and not self.recompute:
                raise RecipeError(
                    f"tune.{key} = {str(getattr(self, key)).lower()} with tune.recompute = false.",
                    "Where activations are kept, none are made from hidden states again.",
                    "Leave one of the two out.",
                )
        if self.skipped_positions:
            self._check_skips()
        if self.needle_weight and self.short_share == 1:
            raise RecipeError(
                f"tune.needle_weight = {self.needle_weight:g} with tune.short_share = 1.",
                "Needles are planted in long windows, and all are read as short ones.",
                "Leave out one of the two.",
            )
        if self.needle_weight and self.isolate_documents and not self.short_share:
            raise RecipeError(
                f"tune.needle_weight = {self.needle_weight:g} with tune.isolate_documents.",
                "Questions at the end of a long window must see the facts in all of its documents.",
                "Leave out one of the two, or give a tune.short_share.",
            )

    @property
    def reach_tokens(self) -> int:
        """The window whose positions are seen: that of the windows, or the longer one that they imitate."""
        return max(self.window_tokens, self.skipped_positions)

    @property
    def trains_few(self) -> bool:
        """Whether a small part of the weights is trained, or adapters: each process then holds all weights."""
        return bool(self.lora_rank or self.parameters)

    def _check_adapters(self) -> None:
        for key in ("lora_alpha", "lora_also"):
            if getattr(self, key) and not self.lora_rank:
                raise RecipeError(
                    f"tune.{key} = {getattr(self, key)} with tune.lora_rank = 0.",
                    "Without a rank there are no adapters: all weights are trained.",
                    "Give tune.lora_rank, or leave the other out.",
                )

    def _check_skips(self) -> None:
        if not self.window_tokens or self.skipped_positions <= self.window_tokens:
            raise RecipeError(
                f"tune.skipped_positions = {self.skipped_positions} with tune.window_tokens = {self.window_tokens}.",
                "The window whose positions are imitated must be longer than the one that is read.",
                "Give a shorter tune.window_tokens, or leave tune.skipped_positions out.",
            )
        if self.isolate_documents:
            raise RecipeError(
                f"tune.skipped_positions = {self.skipped_positions} with tune.isolate_documents.",
                "Positions either begin anew in each document or imitate those of one longer window.",
                "Leave out one of the two.",
            )


PRESETS = {  # arXiv 2402.13753, section 4.1; the paper's global batches, at the steps of its first stage
    "llama2": TuneRecipe(steps=400, batch_windows=32, learning_rate=2e-5, schedule="linear"),
    "mistral": TuneRecipe(16 * 1024, steps=400, batch_windows=64, learning_rate=1e-6, schedule="constant"),
}
