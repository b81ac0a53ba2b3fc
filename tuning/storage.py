"""Where a study is kept: a journal file that survives a cut in mid-line, or a database across machines."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Generator
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._storage import JournalOperation

from competition.errors import ConfigurationError, Top7Error

NOT_A_LOG = (ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError, RecursionError)


def open_storage(storage: str | None, work: Path) -> optuna.storages.BaseStorage:
    """Return the study's storage: a journal file under `work`, or the URL given (PostgreSQL across machines)."""
    if storage is None:
        path = Path(work) / "study" / "journal.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        journal = Journal(path)
        try:
            return optuna.storages.JournalStorage(journal)
        except NOT_A_LOG as error:
            raise Top7Error(
                f"{path}, line {journal.line}: expected a study's log entry, found what cannot be one ({error!r}). The "
                f"lines before it are whole: keep them alone (head -n {journal.line - 1}) and run tune again, which "
                "runs the trials that are missing"
            ) from error
    try:
        return optuna.storages.RDBStorage(storage)
    except Exception as error:  # SQLAlchemy's and the driver's own errors have no common root
        reason = str(error).strip().splitlines()[0]
        raise ConfigurationError(
            f"[tuning] storage = {_without_password(storage)!r} cannot be opened: {_without_password(reason)}"
        ) from error


def _without_password(text: str) -> str:
    """Return `text`, a URL or a driver's words about one, without what comes before @ and without any password."""
    return re.sub(r"(?i)((?:password|passwd|pwd)\s*=\s*)[^&\s]+", r"\1…", re.sub(r"://.*@", "://…@", text))


class Journal(JournalFileBackend):
    """Optuna's journal file, whose last line may be torn (a full disk, a killed writer): the next writer cuts it off.

    line: the one that was read last, counted from 1.
    """

    line = 0

    def __init__(self, path: Path):
        super().__init__(str(path))
        self._studies: set[str] = set()
        self._writing = FileLock(path.with_name(".journal.lock"))  # the system drops it when its process dies

    def read_logs(self, log_number_from: int) -> Generator[dict, None, None]:
        self.line = log_number_from + 1
        for log in super().read_logs(log_number_from):
            if log["op_code"] == JournalOperation.CREATE_STUDY:
                if not isinstance(log["study_name"], str):
                    raise ValueError(f"study_name = {log['study_name']!r}")
                self._studies.add(log["study_name"])
            elif log.get("study_id", 0) >= len(self._studies):
                raise ValueError("the line that creates its study is gone")
            yield log
            self.line += 1

    def append_logs(self, logs: list[dict]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        try:
            with self._writing, open(self._file_path, "rb+") as stream:
                stream.truncate(_whole_lines(stream))
                stream.seek(0, os.SEEK_END)
                stream.write(lines.encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise Top7Error(f"{self._file_path} cannot be written: {error.strerror}") from error


def _whole_lines(stream) -> int:
    """Return the bytes of the file's lines without a last one that is torn."""
    if not stream.seek(0, os.SEEK_END):
        return 0
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
        end = text.rfind(b"\n") + 1
        start = text.rfind(b"\n", 0, max(0, end - 1)) + 1
        try:
            json.loads(text[start:end])
        except (ValueError, RecursionError):
            return start
        return end
