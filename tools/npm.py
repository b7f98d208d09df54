"""Fetch pinned packages through npm, and take single files out of them.

A package is fetched once, into build/npm, by `npm pack`, and so from whichever registry npm is set to.
"""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "build" / "npm"
# name -> version, and the SHA-512 of the package in npm's form
PACKAGES = {
    "onnxruntime-web": (
        "1.30.0",
        "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    ),
    "axe-core": (
        "4.14.1",
        "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
    ),
}


class NotFetched(Exception):
    """A package is not there, and npm did not bring it."""


def fetch(name: str) -> Path:
    """The package of that name as the tarball that npm keeps it in.

    Raises:
        NotFetched: there is no npm, it fails, or what it brings is something else than what is pinned.
    """
    version, pinned = PACKAGES[name]
    tarball = CACHE / f"{name}-{version}.tgz"
    if not tarball.exists():
        if shutil.which("npm") is None:
            raise NotFetched(f"{name} {version} is fetched with npm, which is not installed")
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as place:
            command = ["npm", "pack", f"{name}@{version}", "--silent", "--pack-destination", place]
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            found = list(Path(place).glob("*.tgz"))
            if done.returncode or len(found) != 1:
                raise NotFetched(f"npm could not fetch {name} {version}: {done.stderr.strip()[-500:]}")
            found[0].replace(tarball)
    found = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if found != pinned:
        raise NotFetched(f"{tarball.name} has SHA-512 {found}, but {pinned} is pinned; delete it to fetch it again")
    return tarball


def extract(name: str, files: dict[str, Path]) -> None:
    """Copies files out of a package: the path inside of it -> where to write it."""
    with tarfile.open(fetch(name)) as tar:
        for member, target in files.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(tar.extractfile(f"package/{member}").read())
