"""The files of a bundle, read from a folder or a zip that nobody vouches for.

Nothing is extracted and nothing is unpickled. Names are checked before any content is read, and
sizes both as they are declared and as they turn out.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from cxrzoo.errors import CxrzooError

MAX_FILES = 5_000
MAX_TOTAL_BYTES = 2_000_000_000
MAX_DEPTH = 20
_CLIENTS = (".cache", "huggingface")
_CLIENTS_NOTES = re.compile(
    r"\.gitignore|CACHEDIR\.TAG|trees/[0-9a-f]{40}\.json|.*\.(metadata|lock|incomplete)"
)
"""Where the Hub's client keeps its notes beside a download, and what they are called there."""
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_DATE = (1980, 1, 1, 0, 0, 0)
_REGULAR = (stat.S_IFREG | 0o644) << 16


class BundleError(CxrzooError):
    """A bundle that is not opened, or refused; one line for each problem."""


def name_problem(name: str) -> str:
    """Why a file of this name is not taken; empty for a plain path inside of the bundle."""
    if "\\" in name:
        return "has a backslash in its name, which some systems take for a folder"
    if re.match("[A-Za-z]:", name):
        return "begins with a drive letter, so it would lie outside of the bundle"
    if name.startswith("/"):
        return "is an absolute path, so it would lie outside of the bundle"
    if ".." in name.split("/"):
        return "leads out of the bundle with '..'"
    if len(name) > 400 or not all(_PART.fullmatch(part) for part in name.split("/")):
        return "has a name that begins with a dot, or holds more than letters, digits and ._-"
    if any(part.endswith(".") for part in name.split("/")):
        return "has a name that ends in a dot, which some systems leave off"
    if any(_DEVICE.fullmatch(part) for part in name.split("/")):
        return "has the name of a device, which some systems cannot write"
    return ""


def read_files(path: Path) -> dict[str, bytes]:
    """The contents of a folder or zip, by name; raises BundleError for any that is not safe."""
    if path.is_dir():
        return _read_folder(path)
    try:
        # from memory: nothing can change the file between two looks at it
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise BundleError(f"{path}: neither a folder nor a file, so it is not opened")
        if about.st_size > MAX_TOTAL_BYTES:
            raise BundleError(f"{path}: larger than {MAX_TOTAL_BYTES:,} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be read ({error.strerror}); give a bundle's folder or zip file"
        ) from None
    if not content.startswith(b"PK"):
        raise BundleError(f"{path}: neither a folder nor a zip file; `cxrzoo submit` writes both")
    return dict(unzip(content, str(path), MAX_FILES, MAX_TOTAL_BYTES))


def unzip(
    content: bytes, where: str, max_files: int, max_bytes: int
) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a zip archive, checked; raises BundleError."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [m for m in archive.infolist() if not _is_plain_folder(m)]
            _check_members(members, where, max_files, max_bytes)
            for member in members:
                with archive.open(member) as file:
                    data = file.read(member.file_size + 1)
                if len(data) != member.file_size:
                    raise BundleError(f"{where}: {member.filename} is not of its declared size")
                yield member.filename, data
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise BundleError(f"{where}: a damaged zip file ({error})") from None


def files_below(folder: Path) -> dict[str, Path]:
    """Every file below a folder by its name there, without following links.

    Git's own folder does not count, nor do the notes of the Hub's client. Raises BundleError for
    links, for what is neither file nor folder, and for folders nested too deep.
    """
    found: dict[str, Path] = {}
    for parent, folders, names in os.walk(folder, followlinks=False):
        place = Path(parent)
        inside = place.relative_to(folder).parts
        if len(inside) > MAX_DEPTH:
            raise BundleError(f"{'/'.join(inside[:3])}: folders nested more than {MAX_DEPTH} deep")
        if not inside:
            folders[:] = [name for name in folders if name != ".git"]
        if inside[:2] == _CLIENTS:
            below = "".join(f"{part}/" for part in inside[2:])
            names = [name for name in names if not _CLIENTS_NOTES.fullmatch(below + name)]
        for name in (*folders, *names):
            path = place / name
            kind = path.lstat().st_mode
            inner = path.relative_to(folder).as_posix()
            if stat.S_ISLNK(kind):
                raise BundleError(f"{inner}: is a symbolic link; put the file itself there")
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                raise BundleError(f"{inner}: is neither a file nor a folder; take it out")
        found |= {(place / n).relative_to(folder).as_posix(): place / n for n in names}
    return dict(sorted(found.items()))


def is_checkout(folder: Path) -> bool:
    """Whether a folder was made by git or by the Hub's client, so that it is a whole repository."""
    return (folder / ".git").exists() or folder.joinpath(*_CLIENTS).exists()


def write_zip(files: Mapping[str, bytes]) -> bytes:
    """A zip archive that is the same for the same files: sorted, without dates."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            member = zipfile.ZipInfo(name, _DATE)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.create_system, member.external_attr = 3, _REGULAR
            archive.writestr(member, content)
    return buffer.getvalue()


def sha256_of(content: bytes) -> str:
    """The hexadecimal sha256 of a content."""
    return hashlib.sha256(content).hexdigest()


def _read_folder(path: Path) -> dict[str, bytes]:
    found = files_below(path)
    sizes = {name: file.stat().st_size for name, file in found.items()}
    _check_names(sizes, str(path), MAX_FILES, MAX_TOTAL_BYTES)
    return {name: file.read_bytes() for name, file in found.items()}


def _is_plain_folder(member: zipfile.ZipInfo) -> bool:
    """An entry of a folder without content, which some programs write; its files say it all."""
    name = member.orig_filename
    return name.endswith("/") and member.file_size == 0 and not name_problem(name[:-1])


def _check_members(
    members: list[zipfile.ZipInfo], where: str, max_files: int, max_bytes: int
) -> None:
    problems = []
    for member in members:
        kind = stat.S_IFMT(member.external_attr >> 16)
        name = member.orig_filename
        if kind == stat.S_IFLNK:
            problems.append(f"{name!r} is a symbolic link; put the file itself there")
        elif kind not in (0, stat.S_IFREG):
            problems.append(f"{name!r} is neither a file nor a folder; take it out")
        elif member.flag_bits & 1:
            problems.append(f"{name!r} is encrypted, so that nobody can check it")
        elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            problems.append(f"{name!r} is compressed in another way than deflate")
    if problems:
        raise BundleError("\n".join(f"{where}: {problem}" for problem in problems))
    twice = [name for name, n in Counter(m.orig_filename for m in members).items() if n > 1]
    if twice:
        raise BundleError(f"{where}: holds {twice[0]!r} twice; which one counts nobody could say")
    sizes = {member.orig_filename: member.file_size for member in members}
    _check_names(sizes, where, max_files, max_bytes)


def _check_names(sizes: Mapping[str, int], where: str, max_files: int, max_bytes: int) -> None:
    """Names and sizes before anything is read."""
    if len(sizes) > max_files:
        raise BundleError(f"{where}: holds {len(sizes):,} files, more than {max_files:,}")
    problems = [f"{name!r:.200} {why}" for name in sizes if (why := name_problem(name))]
    folded: dict[str, str] = {}
    for name in sizes:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            problems.append(f"{name!r} and {other!r} are one file where case does not matter")
    if problems:
        raise BundleError("\n".join(f"{where}: {problem}" for problem in problems))
    total = sum(sizes.values())
    if total > max_bytes:
        raise BundleError(
            f"{where}: unpacks to {total:,} bytes, more than {max_bytes:,}; nothing was unpacked"
        )
