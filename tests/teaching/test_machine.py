"""Whether the check of the machine sees what is there, and what is not."""

import shutil

from iclnb.paths import data_folder
from iclnb.teaching import machine


def test_everything_is_there(capsys):
    machine.check_machine()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(machine.PACKAGES) + 3 and all(line.startswith("[OK]   ") for line in lines)


def test_a_missing_package_is_named_with_advice(capsys, monkeypatch):
    monkeypatch.setattr(machine, "PACKAGES", ("torch", "no-such-package"))
    machine.check_machine()
    said = capsys.readouterr().out
    assert "[FAIL] no-such-package: run `pip install no-such-package`\n" in said and said.count("[FAIL]") == 1


def test_damaged_or_missing_weights_are_found(capsys, monkeypatch, tmp_path):
    folder = tmp_path / "pocket-gpt"
    shutil.copytree(data_folder() / "pocket-gpt", folder)
    monkeypatch.setattr(machine, "data_folder", lambda: tmp_path)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    machine.check_machine()
    (folder / "model.safetensors").unlink()
    machine.check_machine()
    said = capsys.readouterr().out
    assert said.count("[FAIL] pocket-gpt is whole: its weights are damaged or missing; get them again\n") == 2
    assert "computes" not in said
