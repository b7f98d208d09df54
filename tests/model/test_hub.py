"""The Hub's client against a Hub on this machine, and every way in which a Hub, a network or a cache can fail."""

import email.utils
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time

import huggingface_hub
import pytest
from huggingface_hub import constants
from toys import hf_model, save_checkpoint

from iclnb.model import hub as hubs
from iclnb.model.checkpoints import CheckpointError, find_folder, load
from iclnb.model.files import INDEX, SINGLE

ID = "someone/tiny"
REFUSED = "does not give you someone/tiny"


class Handler(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as one repository needs; the hub's faults come before its own answers."""

    def do_GET(self):
        hub, path = self.server.hub, self.path.split("?")[0]
        if path.startswith(f"/api/models/{ID}/tree/"):
            what, data = "tree", json.dumps([hub.entry(name) for name in hub.files]).encode()
        elif path.startswith(f"/api/models/{ID}"):
            what, data = "api", json.dumps({"id": ID, "sha": hub.commit, "siblings": []}).encode()
        else:
            what = path.removeprefix(f"/{ID}/resolve/").partition("/")[2]
            data = hub.files.get(what)
        hub.log.append((self.command, what))
        fault = hub.faults.get((self.command, what)) or hub.faults.get(what)
        if fault is not None:
            fault(self, data)
        elif data is None:
            self.send(404, X_Error_Code="EntryNotFound")
        else:
            self.send(200, data)

    do_HEAD = do_GET

    def send(self, status, data=b"", pieces=None, **headers):
        """An answer; `pieces` are what really is sent of the data that is announced."""
        asked = re.search("/resolve/([0-9a-f]{40})/", self.path)
        commit = asked[1] if asked else self.server.hub.commit
        announced = {"Content-Length": len(data), "X-Repo-Commit": commit, "ETag": f'"{named(data)}"'}
        self.send_response(status)
        for name, value in (announced | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        for piece in (data,) if pieces is None else pieces:
            if self.command == "GET":
                self.wfile.write(piece)
        self.close_connection = True

    def log_message(self, *args):
        pass


def named(data):
    """The Hub's name of a content: SHA-256 of what is large (here: weights), git's own of what is small."""
    if len(data) > 20_000:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub:
    """One repository on a server of this machine.

    Attributes:
        url: of the server.
        files, commit: what the repository holds.
        faults: file, "api" or "tree", or (method, that) -> what answers in the Hub's place.
        log: (method, file) of each request.
    """

    def __init__(self):
        self.files, self.commit, self.faults, self.log = {}, "0" * 40, {}, []
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.hub, self.stop = self, server.shutdown
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def hold(self, folder, commit="0" * 40):
        self.files = {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
        self.commit = commit

    def entry(self, name):
        return {"type": "file", "path": name, "size": len(self.files[name]), "oid": named(self.files[name])}

    def fetched(self):
        return [name for method, name in self.log if method == "GET" and name in self.files]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    save_checkpoint(folder)
    return folder


@pytest.fixture
def hub(tiny, tmp_path, monkeypatch):
    """A Hub with the tiny model, which this process takes for the real one; its cache is empty, and no wait is long."""
    hub = Hub()
    hub.hold(tiny)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("ICLNB_CACHE", str(tmp_path / "cache"))
    hub.waits, sleep = [], time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: hub.waits.append(seconds) or sleep(min(seconds, 0.01)))
    huggingface_hub.close_session()
    yield hub
    huggingface_hub.close_session()
    hub.stop()


def is_whole(folder, hub):
    """Whether the folder holds what load reads, byte for byte as on the Hub."""
    names = {"config.json", SINGLE, "vocab.json", "merges.txt", "tokenizer_config.json"}
    assert {file.name for file in folder.iterdir()} == names
    return all((folder / name).read_bytes() == hub.files[name] for name in names)


# ------------------------------------------------------------------------------------------------------------- faults


def status(number, data=b"", **headers):
    return lambda handler, _: handler.send(number, data, **headers)


def page(handler, _):
    handler.send(200, b"<!DOCTYPE html><title>Log in</title>", Content_Type="text/html; charset=utf-8")


def wrong(handler, data):
    """Other bytes of the right length, under the right name."""
    changed = bytes(byte ^ (i == len(data) // 2) for i, byte in enumerate(data))
    handler.send(200, data, pieces=[changed])


def half(handler, data):
    handler.send(200, data, pieces=[data[: len(data) // 2]])


def cut(handler, data):
    handler.connection.close()


def drip(handler, data):
    step = len(data) // 8
    handler.send(200, data, pieces=(time.sleep(1) or data[i : i + step] for i in range(0, len(data), step)))


def once(fault):
    """The fault at the first request, the Hub's own answer after."""
    left = [fault]
    return lambda handler, data: left.pop()(handler, data) if left else handler.send(200, data)


def until(handler, _):
    handler.send(429, Retry_After=email.utils.formatdate(time.time() + 500, usegmt=True))


REFUSALS = {
    "not for you": (status(401), REFUSED + r" \(status 401.*HF_TOKEN"),
    "gated": (
        status(403, X_Error_Code="GatedRepo", X_Error_Message="ask for access"),
        r"status 403: ask for access\): .* accept its licence at http.*someone/tiny; then log in with `hf auth login`",
    ),
    "gated, nobody": (status(401, X_Error_Code="GatedRepo"), r"status 401.*accept its licence at .*`hf auth login`"),
    "forbidden": (status(403), REFUSED + r" \(status 403"),
    "no model": (
        status(404, X_Error_Code="RepoNotFound"),
        "there is no model someone/tiny on the Hub .*check the name",
    ),
    "not found": (status(404), "there is no model someone/tiny on the Hub"),
    "no revision": (status(404, X_Error_Code="RevisionNotFound"), "has no revision 'main' on the Hub; its branches"),
    "too often": (status(429, Retry_After="120"), r"too many requests .*status 429.* again in 120 seconds, or log in"),
    "too often, until": (until, "status 429.* again in (4..|500) seconds"),
    "too often, the Hub's way": (status(429, RateLimit='"api";r=0;t=215'), "status 429.* again in 215 seconds"),
    "broken": (status(500), r"the Hub is down or overloaded \(status 500\); fetch someone/tiny again later"),
    "down": (status(503), r"down or overloaded \(status 503\).* again later"),
    "down for an hour": (status(503, Retry_After="3600"), r"down or overloaded \(status 503\).* again in 3600 seconds"),
    "teapot": (status(418), r"the Hub refuses someone/tiny \(status 418"),
    "login page": (page, "is not the Hub's, but most likely a web page, as of a network that wants you to log in"),
    "login page elsewhere": (status(302, Location="/login"), "not the Hub's, but most likely a web page"),
    "no JSON": (status(200, b"hello"), "not the Hub's, but most likely a web page"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_each_refusal_is_a_sentence_of_its_own(what, hub):
    fault, message = REFUSALS[what]
    hub.faults |= {"api": fault, "tree": fault, "login": page, "": page}
    with pytest.raises(CheckpointError, match=message) as told:
        find_folder(ID)
    assert "\n" not in str(told.value) and sum(hub.waits) < 15
    hub.faults.clear()
    assert is_whole(find_folder(ID), hub), "a second try does not recover"


@pytest.mark.parametrize(
    "what", ["gated", "too often", "broken", "down", "down for an hour", "login page", "forbidden"]
)
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_refusal_of_the_weights_alone_is_said_too(what, method, hub):
    fault, message = REFUSALS[what]
    hub.faults[method, SINGLE] = fault
    with pytest.raises(CheckpointError, match=message):
        find_folder(ID)
    assert sum(hub.waits) < 60
    hub.faults.clear()
    assert is_whole(find_folder(ID), hub)


def test_a_file_that_is_listed_and_not_there_is_named(hub):
    hub.faults[SINGLE] = status(404, X_Error_Code="EntryNotFound")
    with pytest.raises(
        CheckpointError, match="someone/tiny at revision main lacks a file on the Hub: .*model.safetensors"
    ):
        find_folder(ID)


def test_a_repository_without_a_configuration_is_no_checkpoint(hub):
    del hub.files["config.json"]
    with pytest.raises(CheckpointError, match="someone/tiny holds no config.json at revision main"):
        find_folder(ID)


PASSING = {"down": status(503), "too often": status(429, Retry_After="1"), "half": half, "cut": cut, "wrong": wrong}


@pytest.mark.parametrize(
    "where, what",
    [
        (where, what)
        for where in ("api", "config.json", SINGLE)
        for what in PASSING
        if (where, what) != ("api", "wrong")
    ],
)
def test_what_passes_is_tried_again(where, what, hub):
    hub.faults["GET", where] = once(PASSING[what])
    assert is_whole(find_folder(ID), hub)
    assert hub.fetched().count(SINGLE) == 1 + (where == SINGLE)


def test_a_slow_file_arrives(hub):
    hub.faults["GET", SINGLE] = drip
    assert is_whole(find_folder(ID), hub)


@pytest.mark.parametrize("name", ["config.json", SINGLE])
def test_wrong_bytes_are_never_loaded_and_not_kept(name, hub):
    hub.faults["GET", name] = wrong
    for _ in range(2):
        with pytest.raises(CheckpointError, match=f"{hub.url} sends other bytes for {name} of {ID} than it announces"):
            find_folder(ID)
    hub.faults.clear()
    assert is_whole(find_folder(ID), hub)


@pytest.mark.parametrize("piece", [100, 10**7])  # what arrives of a file is written in pieces of this size
@pytest.mark.parametrize("fault", [half, cut])
def test_a_connection_that_always_breaks_is_given_up(fault, piece, hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", piece)
    hub.faults["GET", SINGLE] = fault
    with pytest.raises(CheckpointError, match=f"the connection to {hub.url} breaks off when {ID} is fetched"):
        find_folder(ID)
    assert sum(hub.waits) < 60
    hub.faults.clear()
    assert is_whole(find_folder(ID), hub)


def test_ids_that_the_hub_cannot_have_are_refused(hub):
    with pytest.raises(CheckpointError, match="model is 'some one/tiny', which is no folder here and no id on the Hub"):
        find_folder("some one/tiny")


# -------------------------------------------------------------------------------------------------------------- cache


def flip(data):
    return data[:-1] + bytes([data[-1] ^ 1])


DAMAGE = {"truncated": lambda data: data[:100], "changed": flip, "empty": lambda data: b""}


@pytest.mark.parametrize("name", ["config.json", "vocab.json", SINGLE])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_of_the_cache_is_fetched_anew(damage, name, hub, monkeypatch):
    folder = find_folder(ID)
    blob = (folder / name).resolve()
    blob.write_bytes(DAMAGE[damage](blob.read_bytes()))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for place, message in (
        (ID, "delete it, and load again with a network.*HF_HUB_OFFLINE is set"),
        (folder, "delete it"),
    ):
        with pytest.raises(CheckpointError, match=f"{blob}.* is damaged.*{message}"):
            find_folder(place)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.log.clear()
    assert is_whole(find_folder(ID), hub)
    assert hub.fetched() == [name]


def test_weights_are_hashed_when_they_arrive_and_not_again(hub, monkeypatch):
    find_folder(ID)
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert is_whole(find_folder(ID), hub)


def test_a_cache_folder_that_cannot_be_written_to_costs_only_time(hub, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file in the place of the folder")
    assert is_whole(find_folder(ID), hub) and is_whole(find_folder(ID), hub)


def test_names_that_are_no_hashes_are_not_judged(hub, monkeypatch):
    monkeypatch.setattr(hubs, "PAUSES", ())
    hub.faults["config.json"] = lambda handler, data: handler.send(200, data, ETag='"v1"')
    assert is_whole(find_folder(ID), hub)


def test_without_a_network_a_full_cache_is_enough(hub, monkeypatch):
    folder = find_folder(ID)
    for fault in status(503), status(429, Retry_After="900"), page, status(403):
        hub.faults = {"api": fault, "tree": fault}
        assert find_folder(ID) == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_folder(ID) == folder
    model, tokenizer = load(ID, device="cpu", dtype="float32")
    assert tokenizer.decode(tokenizer.encode("warm film")) == "warm film"


def test_without_a_network_a_half_cache_is_not(hub, monkeypatch):
    hub.faults["GET", SINGLE] = status(403)
    with pytest.raises(CheckpointError):
        find_folder(ID)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="not wholly in .*hub and cannot be fetched .*HF_HUB_OFFLINE is set"):
        find_folder(ID)
    hub.faults.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert is_whole(find_folder(ID), hub)


def test_a_full_disk_names_the_cache(hub, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", full)
    with pytest.raises(CheckpointError, match="cannot be stored in .*hub .No space left on device.; HF_HOME names"):
        find_folder(ID)


def test_a_revision_that_moves_is_followed(hub, tiny, tmp_path):
    first = find_folder(ID)
    other = tmp_path / "other"
    save_checkpoint(other, seed=1)
    hub.hold(other, "1" * 40)
    second = find_folder(ID)
    assert second.name == "1" * 40 and is_whole(second, hub)
    assert find_folder(ID, "0" * 40) == first and (first / SINGLE).read_bytes() == (tiny / SINGLE).read_bytes()


def test_shards_are_those_of_the_index_even_if_the_branch_moves_meanwhile(hub, tmp_path):
    save_checkpoint(tmp_path / "shards")
    (tmp_path / "shards" / SINGLE).unlink()
    hf_model("xglm").save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    hub.hold(tmp_path / "shards")

    def move(handler, data):
        handler.send(200, data)
        hub.commit = "1" * 40

    hub.faults["GET", INDEX] = move
    folder = find_folder(ID)
    shards = {name for name in hub.files if name.startswith("model-")}
    assert len(shards) > 1 and {file.name for file in folder.glob("*.safetensors")} == shards
    assert load(ID, device="cpu")[0].config.n_layer == 2


def test_only_what_load_reads_is_fetched(hub):
    wanted = set(hub.files) - {"generation_config.json"}
    folders = "original/consolidated.safetensors", "onnx/tokenizer.json", "onnx/model.safetensors", "fp16/config.json"
    others = "model.fp16.safetensors", "pytorch_model.bin", "consolidated.safetensors", "token.json", "model.onnx"
    shards = INDEX, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    hub.files |= dict.fromkeys(folders + others + shards, b"{}")
    folder = find_folder(ID)
    assert set(hub.fetched()) == wanted | {INDEX} and len(hub.fetched()) == len(wanted) + 1
    assert not [path for path in folder.rglob("*") if path.is_dir()]


def test_an_index_fetches_nothing_from_elsewhere(hub):
    del hub.files[SINGLE]
    for name in "../../config.json", "original/consolidated.safetensors", "*.safetensors", "pytorch_model.bin":
        hub.commit = hashlib.sha1(name.encode()).hexdigest()
        hub.files[INDEX] = json.dumps({"weight_map": {"a": name}}).encode()
        with pytest.raises(CheckpointError, match="names the shard .* accepted are .*of its own folder"):
            find_folder(ID)
    assert not [name for name in hub.fetched() if name.endswith((".bin", ".safetensors"))]


def test_a_hub_id_is_fetched_and_loaded_by_the_environment(hub, tmp_path):
    code = "import iclnb; m, t = iclnb.load('someone/tiny'); print(m.config.n_layer, t.decode(t.encode('warm film')))"
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().splitlines()[-1:] == ["2 warm film"], done.stderr
