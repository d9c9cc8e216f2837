import os

import pytest

from cluster.session import ROOT, connect, short_temporary


def test_a_cluster_that_does_not_answer_is_named_at_once():
    with (
        pytest.raises(ConnectionError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"),
        connect("127.0.0.1:1", None),
    ):
        pass


def test_workers_import_this_repository():
    assert (ROOT / "operators/schema.py").exists()


def test_a_temporary_folder_whose_name_is_too_long_for_sockets_is_replaced_by_a_private_short_one(tmp_path):
    with short_temporary("/tmp") as own:
        assert own is None
    with short_temporary("/scratch/of/a/user/with/a/long/name/slurm_job_dir/1234567", str(tmp_path)) as short:
        assert os.path.dirname(short) == str(tmp_path)
        assert os.stat(short).st_mode & 0o777 == 0o700
    assert not os.path.exists(short)
    with pytest.raises(ConnectionError, match="set RAY_TMPDIR"), short_temporary("/x" * 30, "/nowhere"):
        pass
