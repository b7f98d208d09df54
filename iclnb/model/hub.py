"""Checkpoints of the Hub: what load reads of a repository, fetched by the Hub's own client, and each byte checked."""

import email.utils
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session

from iclnb.model.files import CONFIG, INDEX, SINGLE, TOKENIZER, blob_of, damaged, is_damaged, shards_of
from iclnb.model.layouts import CheckpointError

PAUSES = (1, 2, 4)  # seconds before what may have been a passing fault is tried again
PATIENCE = 10  # seconds that a busy Hub may ask to wait; a longer wait is left to the user
MANY = 6  # times that one request is answered before it leads nowhere; the client itself tries five times again
PASSING = (408, 429, 500, 502, 503, 504)


def download(hub_id: str, revision: str) -> Path:
    """The folder of a checkpoint in the Hub's cache, with all that load reads, every file as the Hub has named it.

    A file of the cache whose bytes are not those that its name is the hash of is fetched anew. Without a network, what
    the cache holds is used.

    Raises:
        CheckpointError: it cannot be had; the sentence says why, and what to do.
    """
    folder = _fetch(hub_id, revision, [CONFIG, SINGLE, INDEX, *TOKENIZER])
    if not (folder / SINGLE).exists() and (folder / INDEX).exists():
        _fetch(hub_id, folder.name, shards_of(folder / INDEX))  # of the same commit, even if the branch moves
    if not (folder / CONFIG).exists():
        raise CheckpointError(f"{hub_id} holds no config.json at revision {revision}, so it is no checkpoint")
    return folder


def _fetch(hub_id: str, revision: str, names: list[str]) -> Path:
    """The snapshot's folder, with those of the named files that the repository has, whole."""
    folder = _ask(snapshot_download, hub_id, revision, allow_patterns=names)
    for file in damaged(folder):
        try:
            _ask(hf_hub_download, hub_id, folder.name, filename=file.name, force_download=True)
        except CheckpointError as error:
            raise CheckpointError(
                f"{blob_of(file)}, which is {file.name} of {hub_id}, is damaged, and cannot be fetched anew; delete "
                f"it, and load again with a network. {error}"
            ) from error
        if is_damaged(file):
            blob_of(file).unlink()
            file.unlink()
            raise CheckpointError(
                f"{constants.ENDPOINT} sends other bytes for {file.name} of {hub_id} than it announces; they were not "
                f"kept; try again later, or from another network"
            )
    return folder


# --------------------------------------------------------------------------------------------------------- the answers


class _Told(OfflineModeIsEnabled):
    """A sentence for the user; the client takes it as having no network, and looks into its cache."""


def _ask(call: Callable[..., str], hub_id: str, revision: str, **options: Any) -> Path:
    """What a call of the Hub's client gives: passing faults are tried again, lasting ones become one sentence each."""
    pauses = iter(PAUSES)
    while True:
        try:
            with _watched(hub_id):
                return Path(call(hub_id, revision=revision, **options))
        except Exception as error:  # the client raises a family of network, offline and not-found errors
            pause = next(pauses, None)
            if pause is None or not _may_pass(error):
                raise CheckpointError(_sentence(error, hub_id, revision)) from error
            response = _response_of(error)
            time.sleep(pause if response is None else max(pause, _wait_of(response)))


@contextmanager
def _watched(hub_id: str) -> Iterator[None]:
    """End what the client would wait for without end, or would take for a file."""
    asked = Counter()

    def judge(response: Any) -> None:
        request, wait = response.request, _wait_of(response)
        if request.method == "GET" and response.status_code in (200, 206):
            asked[request.url, request.headers.get("range")] += 1
        if response.status_code == 200 and "text/html" in response.headers.get("content-type", ""):
            raise _Told(_no_hub(hub_id))
        if response.status_code in PASSING and wait > PATIENCE:
            raise _Told(_busy(hub_id, response))
        if max(asked.values(), default=0) > MANY:
            raise _Told(_breaks_off(hub_id, "again and again"))

    hooks = get_session().event_hooks["response"]
    hooks.append(judge)
    try:
        yield
    finally:
        hooks.remove(judge)


def _may_pass(error: Exception) -> bool:
    """Whether a fault may be over in some seconds, and the client has not tried again already."""
    if (response := _response_of(error)) is not None:
        return response.status_code in PASSING and response.request.method != "HEAD"
    lasting = (LocalEntryNotFoundError, FileMetadataError, OfflineModeIsEnabled, ValueError)
    return not isinstance(error, lasting) and getattr(error, "errno", None) is None


def _wait_of(response: Any) -> float:
    """The seconds that an answer asks to wait, 0 where it does not."""
    said = response.headers.get("retry-after", "")
    if said.isdecimal():
        return int(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:  # no date either; the Hub itself tells the end of its window
        reset = re.search(r"\bt=(\d+)", response.headers.get("ratelimit", ""))
        return int(reset[1]) if reset and response.status_code == 429 else 0


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, as the client says; not what else was being handled."""
    while error is not None:
        yield error
        error = error.__cause__


def _response_of(error: Exception) -> Any:
    """The Hub's refusal that an error came from, None where there was none."""
    return next((e.response for e in _chain(error) if isinstance(e, HfHubHTTPError)), None)


def _sentence(error: Exception, hub_id: str, revision: str) -> str:
    """Why a model could not be had, and what to do."""
    page = f"{constants.ENDPOINT}/{hub_id}"
    kinds, response = tuple(type(e) for e in _chain(error)), _response_of(error)

    def is_a(kind: type) -> bool:
        return any(issubclass(found, kind) for found in kinds)

    if is_a(_Told):
        return next(str(e) for e in _chain(error) if isinstance(e, _Told))
    if response is not None:
        status = response.status_code
        if is_a(RevisionNotFoundError):
            return f"{hub_id} has no revision {revision!r} on the Hub; its branches, tags and commits are at {page}"
        if is_a(RemoteEntryNotFoundError):
            return f"{hub_id} at revision {revision} lacks a file on the Hub: {response.request.url.path}"
        if status == 404:
            return f"there is no model {hub_id} on the Hub ({page} is not found); check the name"
        if status in (401, 403) or is_a(GatedRepoError):
            said = response.headers.get("x-error-message") or "no reason is given"
            return (
                f"the Hub does not give you {hub_id} (status {status}: {said}): check the name; if it is gated, accept "
                f"its licence at {page}; then log in with `hf auth login`, or set HF_TOKEN to a token that may read it"
            )
        if status in PASSING:
            return _busy(hub_id, response)
        return f"the Hub refuses {hub_id} (status {status}, {response.reason_phrase})"
    if is_a(HFValidationError):
        return f"model is {hub_id!r}, which is no folder here and no id on the Hub ({error})"
    if is_a(json.JSONDecodeError) or is_a(FileMetadataError):
        return _no_hub(hub_id)
    if isinstance(error, OSError) and error.errno:
        return f"{hub_id} cannot be stored in {constants.HF_HUB_CACHE} ({error.strerror}); HF_HOME names another place"
    if not isinstance(error, (LocalEntryNotFoundError, ValueError, OfflineModeIsEnabled)):
        return _breaks_off(hub_id, kinds[0].__name__)
    why = "HF_HUB_OFFLINE is set" if is_a(OfflineModeIsEnabled) else f"no connection, {kinds[-1].__name__}"
    return (
        f"model {hub_id!r} is not wholly in {constants.HF_HUB_CACHE} and cannot be fetched from {constants.ENDPOINT} "
        f"({why}). Without a network, put config.json, *.safetensors and the tokenizer files (vocab.json and "
        f"merges.txt, or tokenizer.json) of {hub_id} in a folder and pass that folder"
    )


def _busy(hub_id: str, response: Any) -> str:
    wait, status = _wait_of(response), response.status_code
    when = f"in {math.ceil(wait)} seconds" if wait else "later"
    if status == 429:
        return (
            f"the Hub has had too many requests from here (status 429); fetch {hub_id} again {when}, or log in with "
            f"`hf auth login`, since it answers users more often"
        )
    return f"the Hub is down or overloaded (status {status}); fetch {hub_id} again {when}"


def _no_hub(hub_id: str) -> str:
    return (
        f"what came from {constants.ENDPOINT} in the place of {hub_id} is not the Hub's, but most likely a web page, "
        f"as of a network that wants you to log in; open it in a browser, or check HF_ENDPOINT and the proxy"
    )


def _breaks_off(hub_id: str, how: str) -> str:
    return f"the connection to {constants.ENDPOINT} breaks off when {hub_id} is fetched ({how}); load it again later"
