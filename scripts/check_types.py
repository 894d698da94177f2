"""Check the public types as pyright sees them.

    python -m scripts.check_types

Exit code 1 if less than 98 % of the public symbols have a known type. The checker is basedpyright, whose wheel holds
all that it needs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

__all__ = ["completeness", "run_pyright"]

ROOT: Final = Path(__file__).resolve().parents[1]
LEAST: Final = 0.98


def run_pyright(*arguments: str, folder: Path) -> dict[str, Any]:
    """Run the checker in a folder, and return its report.

    Args:
        arguments: Its options and files.
        folder: The folder; a checkout would be found as the source of the package, and not as the package.
    """
    programs = str(Path(sys.executable).parent)
    # It asks the python of the PATH where packages are.
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if not done.stdout.lstrip().startswith("{"):
        raise RuntimeError(done.stdout + done.stderr)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def completeness(folder: Path) -> tuple[float, list[str]]:
    """Measure the share of public symbols with a known type, from 0 to 1, and name the others."""
    found = run_pyright("--verifytypes", "qts_data", "--ignoreexternal", folder=folder)["typeCompleteness"]
    unknown = [one["name"] for one in found["symbols"] if one["isExported"] and not one["isTypeKnown"]]
    return found["completenessScore"], unknown


def main() -> int:
    """Print the share and the symbols without a known type."""
    with tempfile.TemporaryDirectory() as folder:
        share, unknown = completeness(Path(folder))
    print(f"{share:.1%} of the public types are known")
    if share >= LEAST:
        return 0
    print("\n".join(unknown))
    return 1


if __name__ == "__main__":
    sys.exit(main())
