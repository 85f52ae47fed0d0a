"""The errors that users see: what was found, what was needed, what to do next."""


class LongRopeError(ValueError):
    """Bad input, told in three parts and printed as one paragraph; the CLI exits with code 2."""

    def __init__(self, found: str, needed: str, remedy: str) -> None:
        """Keep the three parts apart, so that callers and tests can look at each."""
        super().__init__(f"{found} {needed} {remedy}")
        self.found, self.needed, self.remedy = found, needed, remedy

    def __reduce__(self) -> tuple[type["LongRopeError"], tuple[str, str, str]]:
        """Let it go from process to process: it is made again from its three parts."""
        return type(self), (self.found, self.needed, self.remedy)


class ModelError(LongRopeError):
    """A model that cannot be loaded, or whose rotary embedding one table of factors cannot describe."""


class FactorsError(LongRopeError):
    """Rescale factors that are malformed or belong to another geometry."""


class TextsError(LongRopeError):
    """Texts that are missing, too short, or already used for searching."""


class RecipeError(LongRopeError):
    """A recipe or a setting that cannot be carried out."""


class RunError(LongRopeError):
    """A run directory that is locked, damaged or made by another recipe."""


class ExportError(LongRopeError):
    """Factors that the target format cannot carry, or a checkpoint that reopens with other logits."""


class ProcessLostError(LongRopeError):
    """Another process of the launch has died; the CLI exits with code 1, and the run can be resumed."""
