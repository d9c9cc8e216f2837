"""What a preflight finds, case by case."""

import pytest

from cluster.preflight import MUST_AGREE, PACKAGES, Node, here, problems

VERSIONS = dict.fromkeys({*PACKAGES, *MUST_AGREE}, "1.0")


def node(name="a", **changes):
    values = {
        "name": name,
        "alive": True,
        "cpus": 8.0,
        "gpus": 0.0,
        "object_store_bytes": 4e9,
        "python": "3.11.2",
        "versions": VERSIONS,
        "free_bytes": 100 * 10**9,
        "sees": {},
    }
    return Node(**{**values, **changes})


def test_two_equal_nodes_are_fine():
    assert problems([node(), node("b")], train_workers=2, partition_bytes=10**9) == []


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({"alive": False}, {}, "b does not answer"),
        ({"versions": {**VERSIONS, "torch": None}}, {}, "b lacks torch"),
        ({"versions": {**VERSIONS, "ray": "2.61.0"}}, {}, "ray is 1.0 on a and 2.61.0 on b"),
        ({"python": "3.12.1"}, {}, "Python is 3.11.2 on a and 3.12.1 on b"),
        ({"object_store_bytes": 1e8}, {}, "object store of 100 MB"),
        ({"free_bytes": 10**8}, {}, "0.1 GB left"),
        ({"sees": {"/corpus": False}}, {}, "b does not see /corpus"),
        ({}, {"train_workers": 20}, "20 training workers need"),
        ({}, {"gpu_stages": True}, "no node has one"),
        ({"gpus": 1.0}, {"train_workers": 2}, "would share 1 GPUs"),
        ({}, {"pool_cpus": 16}, "a deadlock"),
        ({}, {"partition_bytes": 10**11}, "at least twice a partition"),
    ],
)
def test_each_fault_is_named(changes, options, said):
    found = problems([node(), node("b", **changes)], **options)
    assert any(said in line for line in found), found


def test_a_local_build_of_a_version_is_that_version():
    assert problems([node(), node("b", versions={**VERSIONS, "torch": "1.0+cu128"})]) == []


def test_this_machine_has_what_every_node_needs(tmp_path):
    says = here([str(tmp_path), "/nowhere"])
    assert says["sees"] == {str(tmp_path): True, "/nowhere": False}
    assert [name for name in PACKAGES if says["versions"][name] is None] == []
