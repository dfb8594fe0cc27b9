"""Debian packages of other suites, without touching this machine's apt configuration and without root.

apt works on private directories here: its own source list, package lists and downloads. The mirror is the
one that the machine's own sources name for its own release, as apt itself reads them.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ioas.errors import EnvironmentRefusal

KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
ROLLING = ("stable", "testing", "unstable", "sid")
# Hooks that a machine may have set up for its own package lists; they are no business of a private list.
CONFIGURATION = "".join(
    f"#clear {hook};\n"
    for hook in ("APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success")
)


def release() -> str:
    """The codename of this Debian release. Raises EnvironmentRefusal where there is no apt or no Debian."""
    if not shutil.which("apt-get"):
        raise EnvironmentRefusal("there is no apt-get to download Debian's packages with")
    system = platform.freedesktop_os_release()
    if system["ID"] != "debian":
        raise EnvironmentRefusal(f"{system['ID']} is not Debian, whose packages are known here")
    return system.get("VERSION_CODENAME", "")


def mirror() -> str:
    """The URI from which this Debian machine takes its own release.

    Raises EnvironmentRefusal where that cannot be told: no apt, no Debian, or no source for the release.
    """
    codename = release()
    targets = _targets()
    for wanted in (codename, *ROLLING):
        for name, uri in targets:
            if name == wanted:
                return uri
    raise EnvironmentRefusal(f"apt's sources name no mirror for {codename or 'this release'}")


def own_suites() -> list[tuple[str, str]]:
    """The suites of this Debian release that apt's sources name, updates and security among them, each with its URI."""
    names = (release(), *ROLLING)
    return [target for target in _targets() if target[0].startswith(names)]


def _targets() -> list[tuple[str, str]]:
    listing = ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"]
    lines = dict.fromkeys(_output(listing).splitlines())  # a suite is listed once for each of its components
    return [(name, uri) for name, _, uri in (line.partition(" ") for line in lines)]


@dataclass(frozen=True)
class Package:
    """One version of a package: what its index entry says of it."""

    name: str
    version: str
    sha256: str


class PrivateApt:
    """apt for a `suite` of this machine's mirror, or its `own` suites, or both; all state in `directory`.

    What it refuses (EnvironmentRefusal) ends with `instead`: what the user can do where apt cannot help.
    """

    def __init__(self, directory: Path, suite: str | None, instead: str, *, own: bool = False) -> None:
        self._directory = directory
        self._suite = suite
        self._instead = instead
        self._own = own

    def update(self) -> None:
        """Fetch the indexes."""
        for part in ("lists/partial", "cache/archives/partial", "packages"):
            (self._directory / part).mkdir(parents=True, exist_ok=True)
        (self._directory / "apt.conf").write_text(CONFIGURATION)
        keyring = next((f"Signed-By: {path}\n" for path in KEYRINGS if path.exists()), "")
        with self._explained():
            sources = own_suites() if self._own else []
            sources += [(self._suite, mirror())] if self._suite else []
        (self._directory / "suite.sources").write_text(
            "\n".join(
                f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\n{keyring}" for suite, uri in sources
            )
        )
        self._apt(["apt-get", "-qq", "update"])

    def newest(self, name: str, prefix: str) -> Package:
        """The newest version of package `name` that begins with `prefix`: suites move on."""
        entries = self._apt(["apt-cache", "show", "--all-versions", name], missing="").split("\n\n")
        for entry in entries:
            fields = dict(re.findall(r"^(\S+): (.*)$", entry, re.MULTILINE))
            if fields.get("Version", "").startswith(prefix):
                return Package(name, fields["Version"], fields["SHA256"])
        raise EnvironmentRefusal(f"{self._suite} has no {name} {prefix}* any more; {self._instead}")

    def download(self, package: Package) -> Path:
        """Download `package` and check its digest; goes on with what an interrupted run left behind."""
        where = self._directory / "packages"
        self._apt(["apt-get", "-q", "download", f"{package.name}={package.version}"], cwd=where)
        # apt writes a version's colon as %3a in the file's name
        (path,) = where.glob(f"{package.name}_{package.version.replace(':', '%3a')}_*.deb")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != package.sha256:
            path.unlink()
            raise EnvironmentRefusal(f"{path.name} arrived damaged and was removed; run the command again")
        return path

    def missing(self, names: Sequence[str]) -> list[Path]:
        """Download the packages `names`, rather from `suite`, with everything they need that is not installed here."""
        options = ["-y", "--no-install-recommends", "--download-only", "-o", "Debug::NoLocking=true"]
        options += ["-o", "Dir::State::status=/var/lib/dpkg/status"]
        options += ["-t", self._suite] if self._suite else []
        self._apt(["apt-get", "-q", *options, "install", *names])
        return sorted((self._directory / "cache/archives").glob("*.deb"))

    def _apt(self, command: Sequence[str], *, cwd: Path | None = None, missing: str | None = None) -> str:
        options = {
            "Dir::Etc::sourcelist": self._directory / "suite.sources",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": self._directory / "lists",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": self._directory / "cache",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "APT::Sandbox::User": "root",  # the sandbox user cannot reach into a home directory
        }
        settings = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        program, *arguments = command
        with self._explained():
            return _output(
                [program, "-c", f"{self._directory}/apt.conf", *settings, *arguments], cwd=cwd, missing=missing
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except EnvironmentRefusal as refusal:
            raise EnvironmentRefusal(f"{refusal}; {self._instead}") from refusal


def _output(command: Sequence[str], *, cwd: Path | None = None, missing: str | None = None) -> str:
    """What `command` prints; on failure `missing` when it is given, else EnvironmentRefusal with its last words."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, "LC_ALL": "C"}, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode == 0:
        return done.stdout
    if missing is not None:
        return missing
    words = (done.stderr.strip() or "no message").splitlines()[-1]
    raise EnvironmentRefusal(f"{command[0]} failed ({words}); run the command again")
