"""How a command ends: its exit status, and the one line that says what was wrong."""

import os
import sys
from collections.abc import Callable

from gentangle.errors import InputError, printable

#: Which extra brings a package that a command may find missing.
EXTRAS = dict.fromkeys(("accelerate", "datasets", "peft", "safetensors", "tokenizers", "transformers", "trl"), "trl")
EXTRAS |= {"rapidfuzz": "trl", "gguf": "trl", "sklearn": "book", "wilds": "wilds", "torchvision": "wilds"}


def exit_status(name: str, command: Callable[[], None]) -> int:
    """Run a command and return its status: 0 is success, 2 a mistake in what was given, 1 a failure."""
    try:
        command()
    except InputError as error:
        return _told(name, str(error), 2)
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing not in EXTRAS:
            raise
        return _told(name, f"{missing} is not installed: pip install 'gentangle[{EXTRAS[missing]}]'.", 2)
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a cache that is read-only
        return _told(name, f"{error}. Files are as they were; the same command goes on from here.", 1)
    except KeyboardInterrupt:
        print(f"\ngentangle {name}: interrupted; the same command goes on from here.", file=sys.stderr)
        return 1
    return 0


def _told(name: str, message: str, status: int) -> int:
    """Print the message as one line of at most a thousand letters or so, and return the status."""
    line = printable(" ".join(message.split()))
    line = line if len(line) <= 1000 else f"{line[:600]} ... {line[-400:]}"
    print(f"gentangle {name}: {line}", file=sys.stderr)
    return status
