"""Files: where they come from (a folder or the hub), and how they are put in place."""

from __future__ import annotations

import functools
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, move it onto `path` in one step.

    A reader of `path` sees the old file or the new one, whole, whatever happens in between. When the block
    raises, nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: str | Path) -> Path:
    """Make `folder` if it is not there, and return it."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{folder} is no folder: give the path of a folder to write into.") from None
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}. Give a folder that can be written to.") from None
    return folder


def read_text(path: str | Path) -> str:
    """Return the text in the file `path`; an InputError names the file if it holds none in UTF-8."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")  # the mark that some editors put first is no text
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}). Convert it, or move it away.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the JSON object in the file `path`; an InputError names the file if it holds none."""
    try:
        value = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, expected a JSON object {{...}}.")
    return value


SHIPPED = Path(__file__).parent / "pretrained"  # the small BLOOM that comes with the package
WEIGHTS = "*.safetensors"
CHECKPOINT = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "model.safetensors.index.json",
    WEIGHTS,
]
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
CONVERT = (
    "A pickle can run any program when it is opened, so minibloom opens none. Convert it once, in an "
    'environment with transformers: AutoModelForCausalLM.from_pretrained("{0}").save_pretrained("FOLDER", '
    "safe_serialization=True), and give FOLDER."
)


def fetch(path_or_repo: str | Path, names: list[str] | None = None, revision: str | None = None) -> Path:
    """Return a folder that holds a checkpoint's files: a local one as it is, or a download from the hub.

    path_or_repo: a folder, or a repository on the Hugging Face hub ("bigscience/bloom-560m").
    names: file names or patterns to download; by default all of a checkpoint (`CHECKPOINT`), never a pickle.
    revision: branch, tag or commit of the repository.
    An InputError says so if there is nothing of that name, or the hub is out of reach and was so before.
    """
    given = os.fspath(path_or_repo)
    path = Path(os.path.expanduser(given))
    if given and path.is_dir():
        return path
    if path.is_file():
        hint = CONVERT.format(path.parent) if path.suffix in PICKLES else f"Give {path.parent} instead."
        raise InputError(f"{given} is a file, expected the folder of a checkpoint. {hint}")
    repo_like = isinstance(path_or_repo, str) and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", given)
    if not repo_like:
        raise InputError(
            f"{given!r} does not exist, expected the folder of a checkpoint or a repository on the hub "
            "(as 'bigscience/bloom-560m')."
        )
    return _download(given, names or CHECKPOINT, revision)


def _download(repo: str, names: list[str], revision: str | None) -> Path:
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    download: Any = functools.partial(
        snapshot_download, repo, revision=revision, allow_patterns=names, ignore_patterns="*/*"
    )
    where = f"{repo!r} is no folder here, and as a repository on the hub ({constants.ENDPOINT})"
    unreachable = ""
    try:
        try:
            # Asked first, with a time limit: tells in seconds whether the hub answers, and what it holds.
            held = HfApi().model_info(repo, revision=revision, timeout=10).siblings or []
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
            raise
        except unreachable_errors() as error:
            unreachable = f"{where} it cannot be reached ({_first_line(error)}), nor was it ever downloaded. "
            return Path(download(local_files_only=True))
        if WEIGHTS in names:
            refuse_pickle((file.rfilename for file in held), repo)
        return Path(download())
    except errors.GatedRepoError:
        problem = f"{where} it is gated. Accept its terms on its page, then use `hf auth login`."
    except errors.RepositoryNotFoundError:
        problem = f"{where} it does not exist or is private. Check the spelling, or use `hf auth login`."
    except errors.RevisionNotFoundError:
        problem = f"{where} it has no revision {revision!r}."
    except errors.HFValidationError as error:
        problem = f"{repo!r} is no folder here, and no name of a repository: {_first_line(error)}."
    except unreachable_errors() as error:
        problem = unreachable + "Check the connection, or give the path of a folder."
        if not unreachable:
            problem = f"{where} it cannot be downloaded ({_first_line(error)}). Try again."
    raise InputError(problem)


def unreachable_errors() -> tuple[type[Exception], ...]:
    """Return what huggingface_hub raises on a bad connection: it lets through what its HTTP library raises."""
    from huggingface_hub import errors

    return errors.HTTPError, OSError  # type: ignore[attr-defined]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def refuse_pickle(names: Iterable[str], where: str | Path) -> None:
    """Raise an InputError that tells how to convert if the only weights among files `names` are pickles."""
    names = list(names)
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles and not any(name.endswith(".safetensors") for name in names):
        message = f"{where} holds its weights only as a pickle ({pickles[0]}), expected model.safetensors. "
        raise InputError(message + CONVERT.format(where))
