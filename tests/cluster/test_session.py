import pytest

from cluster.session import ROOT, connect


def test_a_cluster_that_does_not_answer_is_named_at_once():
    with (
        pytest.raises(ConnectionError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"),
        connect("127.0.0.1:1", None),
    ):
        pass


def test_workers_import_this_repository():
    assert (ROOT / "operators/schema.py").exists()
