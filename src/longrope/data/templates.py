"""Chat templates: code of a stranger, in a language that cannot leave its sandbox, but may fail or never end."""

import ctypes
import threading
from typing import Any

from longrope.errors import ModelError, describe_error

SECONDS = 20.0  # that a template may take
MOST_AROUND = 2**20  # characters that it may add, beside the message twice


def apply_template(tokenizer: Any, text: str, *, seconds: float = SECONDS, **options: Any) -> str:
    """One message of the user, and the beginning of an answer, as a tokenizer's chat template writes them.

    Args:
        tokenizer: with a chat template.
        text: of the message.
        seconds: after which the template is given up.
        options: that the template is given, too.

    Raises:
        ModelError: the template fails, does not end, or writes too much.
    """
    given = {"tokenize": False, "add_generation_prompt": True, **options}
    done: list[str | Exception] = []

    def work() -> None:
        try:
            done.append(str(tokenizer.apply_chat_template([{"role": "user", "content": text}], **given)))
        except Exception as error:  # noqa: BLE001  # whatever a template brings about
            done.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not done:  # have the loop of the template raise, for nobody waits for it any more
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(TimeoutError))
        raise _failed(f"does not end within {seconds:g} s")
    if isinstance(written := done[0], Exception):
        raise _failed(f"fails ({describe_error(written)})") from written
    if len(written) > 2 * len(text) + MOST_AROUND:
        raise _failed(f"writes {len(written):,} characters around a message of {len(text):,}")
    return written


def _failed(what: str) -> ModelError:
    return ModelError(
        f"The chat template of this model {what}.",
        "It must write a message of the user down.",
        "Correct the template, or remove it from the tokenizer's files: the text is then read as it stands.",
    )
