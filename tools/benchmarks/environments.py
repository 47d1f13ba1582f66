"""Peers as processes of their own, each in its own virtual environment under build/."""

import json
import subprocess
import sys
import venv
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
TORCH = "torch==2.13.0"


class Unavailable(Exception):
    """A peer that cannot be installed or started here; says why."""


def environment(package: str | None, root: Path) -> str:
    """The Python of an environment that has the package; made on demand. None: our own Python."""
    if package is None:
        return sys.executable
    home = root / "peers" / package
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not (home / "installed").exists():
        print(f"installing {package} into its own environment", flush=True)
        venv.create(home, with_pip=True, clear=True)
        for what in (TORCH, package):
            command = [str(python), "-m", "pip", "install", "--quiet", what]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                reason = [line for line in done.stderr.splitlines() if "ERROR" in line][-1:]
                raise Unavailable(f"pip install {what} failed: {''.join(reason)}")
        (home / "installed").touch()
    return str(python)


def version_in(python: str, package: str) -> str:
    ask = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", ask], capture_output=True, text=True).stdout.strip()


class Peer:
    """A process that has the model loaded and sweeps when asked; it waits without computing."""

    def __init__(self, script: str, package: str | None, model: Path, root: Path):
        python = environment(package, root)
        self.version = version_in(python, package) if package else ""
        command = [python, str(PEERS / script), str(model)]
        pipe = subprocess.PIPE
        self.log = (root / f"{script}.log").open("w+")
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self.log, text=True
        )

    def sweep(self, **request) -> dict:
        """Seconds and values of one sweep."""
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # its last words are in the log
        for line in self.process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        self.log.seek(0)
        last = self.log.read().strip().splitlines()[-1:]
        raise Unavailable(f"stopped: {''.join(last)}")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.log.close()
