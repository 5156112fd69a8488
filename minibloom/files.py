"""Files: where they come from (a folder or the hub), and how they are put in place."""

from __future__ import annotations

import json
import os
import re
import secrets
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
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
        temporary.touch()
        mode = temporary.stat().st_mode  # that of a new file here: safetensors lets nobody else read what it writes
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def folder_path(folder: str | Path) -> Path:
    """`folder`, which is to be written into, as a path; a tilde is the home folder."""
    if not os.fspath(folder):  # which as a path would be the current one
        raise InputError("the folder to write into is '', expected its path: '.' is the current one.")
    return Path(folder).expanduser()


def make_folder(folder: str | Path) -> Path:
    """Make `folder` if it is not there, and return it: a folder that files can be written into."""
    folder = folder_path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{folder} is no folder: give the path of a folder to write into.") from None
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}. Give a folder that can be written to.") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder} cannot be written to: give another folder, or change its permissions.")
    return folder


def checked_target(path: str | Path) -> Path:
    """`path`, if a file can be written there."""
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path} cannot be written, expected the name of a file in a folder that is there.")
    return path


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
    'environment with transformers: AutoModelForCausalLM.from_pretrained("{0}"{1}).save_pretrained("FOLDER", '
    "safe_serialization=True), and give FOLDER."
)
# What reading an answer that is no hub's ends in, as that of a network that wants one to log in first.
NONSENSE = (AttributeError, LookupError, TypeError, ValueError, struct.error)


def fetch(path_or_repo: str | Path | None, names: list[str] | None = None, revision: str | None = None) -> Path:
    """Return a folder that holds a checkpoint's files: a local one as it is, or a download from the hub.

    path_or_repo: a folder, or a repository on the Hugging Face hub ("bigscience/bloom-560m"); None is what ships.
    names: file names or patterns to download; by default all of a checkpoint (`CHECKPOINT`), never a pickle.
    revision: branch, tag or commit of the repository.
    An InputError says so if there is nothing of that name, or the hub is out of reach and was so before.
    """
    if path_or_repo is None:
        return SHIPPED
    given = os.fspath(path_or_repo)
    path = Path(os.path.expanduser(given))
    if given and path.is_dir():
        return path
    if path.is_file():
        hint = CONVERT.format(path.parent, "") if path.suffix in PICKLES else f"Give {path.parent} instead."
        raise InputError(f"{given} is a file, expected the folder of a checkpoint. {hint}")
    repo_like = isinstance(path_or_repo, str) and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", given)
    if not repo_like:
        raise InputError(
            f"{given!r} does not exist, expected the folder of a checkpoint or a repository on the hub "
            "(as 'bigscience/bloom-560m')."
        )
    return _download(given, names or CHECKPOINT, revision)


def _download(repo: str, names: list[str], revision: str | None) -> Path:
    """Return the folder in the hub's cache that holds the files of `repo` that `names` match.

    They come one after another, in this thread, so that Ctrl-C is heard at once. A file is put in place when it is
    whole: what broke off goes on with the first file that is missing, at the next call.
    """
    from huggingface_hub import HfApi, constants, errors, hf_hub_download, snapshot_download

    where = f"{repo!r} is no folder here, and as a repository on the hub ({constants.ENDPOINT})"
    unreachable = ""
    try:
        try:
            # Asked first, with a time limit: tells in seconds whether the hub answers, and what it holds.
            about = HfApi().model_info(repo, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
            held = [file.rfilename for file in about.siblings or []]
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
            raise
        except unreachable_errors() + NONSENSE as error:
            unreachable = f"{where} it cannot be reached ({cause(error)}), nor was it downloaded before. "
            folder = Path(snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=names))
            if not any(folder.glob(WEIGHTS if WEIGHTS in names else names[0])):
                raise FileNotFoundError from None
            return folder
        if WEIGHTS in names:
            refuse_pickle(held, repo, revision)
        wanted = [name for one in names for name in held if fnmatchcase(name, one) and "/" not in name]  # weights last
        if not wanted:
            raise InputError(f"{where} it has no file {' or '.join(names)}.")
        # The first by the revision's name: the cache notes which commit that is now. The others are that commit's.
        folder = Path(hf_hub_download(repo, wanted[0], revision=revision)).parent
        for name in wanted[1:]:
            hf_hub_download(repo, name, revision=folder.name)
        return folder
    except errors.GatedRepoError:
        problem = f"{where} it is gated. Accept its terms on its page, then use `hf auth login`."
    except errors.RepositoryNotFoundError:
        problem = f"{where} it does not exist or is private. Check the spelling, or use `hf auth login`."
    except errors.RevisionNotFoundError:
        problem = f"{where} it has no revision {revision!r}."
    except errors.HFValidationError as error:
        problem = f"{repo!r} is no folder here, and no name of a repository: {str(error).rstrip('.')}."
    except unreachable_errors() as error:
        problem = unreachable + "Check the connection, or give the path of a folder."
        if not unreachable:
            problem = f"{where} it cannot be downloaded ({cause(error)}). Try again: whole files are kept."
    raise InputError(problem)


def unreachable_errors() -> tuple[type[Exception], ...]:
    """Return what huggingface_hub raises on a bad connection: it lets through what its HTTP library raises."""
    from huggingface_hub import errors

    return errors.HTTPError, OSError  # type: ignore[attr-defined]


def cause(error: BaseException) -> str:
    """Return in a line why the hub could not be reached, or not be understood."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError):  # "an error happened, and nothing is in the cache either"
        error = error.__cause__ or error
    if isinstance(error, NONSENSE) and not isinstance(error, errors.HTTPError):  # type: ignore[attr-defined]
        return "what it answers is no hub's answer"
    lines = [line for line in str(error).splitlines() if line.strip() and not re.match(r"\d+ Client Error\.", line)]
    return (lines or [type(error).__name__])[0].rstrip(".")


def refuse_pickle(names: Iterable[str], where: str | Path, revision: str | None = None) -> None:
    """Raise an InputError that tells how to convert if the only weights among files `names` are pickles."""
    names = list(names)
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles and not any(name.endswith(".safetensors") for name in names):
        message = f"{where} holds its weights only as a pickle ({pickles[0]}), expected model.safetensors. "
        raise InputError(message + CONVERT.format(where, f', revision="{revision}"' if revision else ""))
