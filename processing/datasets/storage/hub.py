"""A folder to a repository on the Hub, in one commit, or to another folder: no more than has changed."""

import filecmp
import fnmatch
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import httpx

NO_FILES = (".*", "__pycache__", "*.part", "*.tmp")


class UploadError(OSError):
    """The Hub refused a repository, or an upload broke off; the repository is at its old commit."""


@dataclass
class Upload:
    """What an upload changes: paths in the repository. `commit` is None where nothing was committed."""

    url: str
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    commit: str | None = None

    def __str__(self) -> str:
        lines = [f"{kind} {path}" for kind in ("added", "changed", "deleted") for path in getattr(self, kind)]
        return "\n".join([*lines, f"{len(self.unchanged)} files unchanged"])


def upload(
    folder: str | Path,
    repo: str,
    repo_type: str,
    message: str,
    private: bool = False,
    replaces: Sequence[str] = (),
    dry_run: bool = False,
    **options,
) -> Upload:
    """Bring a repository to what a folder holds, in one commit; in none if nothing differs.

    Large files are uploaded first and the commit comes last, so that a failure leaves the repository at its old commit,
    and a repetition sends only what has not arrived yet. (`HfApi.upload_folder` commits large folders in several parts,
    with nothing to list beforehand.) Names that begin with a dot stay behind.

    Args:
        folder: its files, at the same paths.
        repo: "org/name"; created if there is none.
        repo_type: "model", "dataset" or "space".
        private: for a repository that is created.
        replaces: patterns of files that go where the folder lacks them; all others stay.
        dry_run: only say what would change.
        options: of `HfApi.create_repo`, such as `space_sdk`.

    Raises:
        ValueError: no token; HF_HUB_OFFLINE is set; `private`, and the repository is public.
        UploadError: the Hub refuses the repository, or the upload fails.
    """
    if constants.HF_HUB_OFFLINE:
        raise ValueError("HF_HUB_OFFLINE: it is set, so nothing can be uploaded; unset it, or write to a folder.")
    if get_token() is None:
        raise ValueError("token: there is none; run `hf auth login`, or set HF_TOKEN to one that may write.")
    api = HfApi()
    files = files_of(folder)
    with _explained(repo):
        head = _head(api, repo, repo_type)
        if head is not None and private and not head.private:
            raise ValueError(f"private: {repo} exists and is public; make it private on the Hub, or give another name.")
        stored, changed = set(), set()
        if head is not None:
            found = api.verify_repo_checksums(repo, repo_type=repo_type, revision=head.sha, local_dir=folder)
            stored = (files.keys() - found.extra_paths) | set(found.missing_paths)
            changed = {each["path"] for each in found.mismatches}
        prefix = constants.REPO_TYPES_URL_PREFIXES.get(repo_type, "")
        done = _compared(f"{api.endpoint}/{prefix}{repo}", files, stored, changed, replaces)
        if dry_run or not (done.added or done.changed or done.deleted):
            return done
        if head is None:
            api.create_repo(repo, repo_type=repo_type, private=private, exist_ok=True, **options)
            head = api.repo_info(repo, repo_type=repo_type)
        operations = [CommitOperationAdd(path, str(files[path])) for path in (*done.added, *done.changed)]
        operations += [CommitOperationDelete(path) for path in done.deleted]
        commit = api.create_commit(
            repo, operations, commit_message=message, repo_type=repo_type, parent_commit=head.sha, num_threads=2
        )
    done.commit = commit.oid
    return done


def write_tree(folder: str | Path, to: str | Path, replaces: Sequence[str] = (), dry_run: bool = False) -> Upload:
    """The same with a folder `to` in the repository's place.

    Raises:
        ValueError: there is nothing in `folder`.
    """
    files, to = files_of(folder), Path(to)
    stored = files_of(to) if to.is_dir() and any(to.iterdir()) else {}
    _, *changed = filecmp.cmpfiles(folder, to, files.keys() & stored.keys(), shallow=False)
    done = _compared(str(to), files, stored, set().union(*changed), replaces)
    if not dry_run:
        for path in (*done.added, *done.changed):
            target = to / path
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = target.with_name(f"{target.name}.part")
            shutil.copyfile(files[path], unfinished)
            os.replace(unfinished, target)
        for path in done.deleted:
            stored[path].unlink()
    return done


def files_of(folder: str | Path) -> dict[str, Path]:
    """Path in the repository -> file, of all files that are uploaded.

    Raises:
        ValueError: no such folder, or nothing in it.
    """
    folder = Path(folder)
    files = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(fnmatch.fnmatch(part, pattern) for part in parts for pattern in NO_FILES):
            files["/".join(parts)] = path
    if not files:
        raise ValueError(f"folder: {folder} holds no files.")
    return files


def _head(api: HfApi, repo: str, repo_type: str):
    try:
        return api.repo_info(repo, repo_type=repo_type)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None


def _compared(url: str, files: dict, stored: Collection[str], changed: set[str], replaces: Sequence[str]) -> Upload:
    done = Upload(url)
    for path in files:
        (done.added if path not in stored else done.changed if path in changed else done.unchanged).append(path)
    gone = set(stored).difference(files)
    done.deleted = sorted(path for path in gone if any(fnmatch.fnmatch(path, pattern) for pattern in replaces))
    return done


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Errors of the Hub as `UploadError`s that say what to do."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = error.server_message or str(error).strip().splitlines()[-1]
        if status in (401, 403, 404):
            reason = f"the Hub refuses it ({status}: {said}). Check the name, and that the token may write there."
        elif status in (409, 412):
            reason = f"it has changed meanwhile ({status}: {said}). Run the same again."
        else:
            reason = f"the upload failed ({status}: {said}), and the repository is as it was. Run the same again."
        raise UploadError(f"repo: {repo}: {reason}") from error
    except (httpx.HTTPError, RuntimeError, OSError) as error:
        cause = error.__cause__ or error
        reason = f"the upload failed ({error} {cause if cause is not error else ''}".strip()
        raise UploadError(f"repo: {repo}: {reason}), and the repository is as it was. Run the same again.") from error
