"""What a tiny fixed recipe makes is what it made before, unless a version says otherwise."""

import dataclasses

import pytest

from tests.golden.fingerprints import NAMES, Fingerprint, build, fingerprints, read, verdict


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return dict(fingerprints(build(tmp_path_factory.mktemp("golden"))))


@pytest.mark.parametrize("name", NAMES)
def test_contents_change_only_with_a_version(made, name):
    assert not verdict(name, made[name], read(name))


KEPT = Fingerprint({"render": "1"}, "abc", {"levels": [1000.0, 2.0]})


def test_a_changed_digest_under_the_same_version_asks_for_a_higher_one():
    assert "raise the version of render" in verdict("audio", dataclasses.replace(KEPT, digest="abd"), KEPT)
    louder = dataclasses.replace(KEPT, figures={"levels": [1010.0, 2.0]})
    assert "raise the version of render" in verdict("audio", louder, KEPT)
    raised = dataclasses.replace(louder, versions={"render": "2"})
    assert verdict("audio", raised, KEPT).endswith("make golden")


def test_what_another_processor_rounds_is_no_change():
    assert not verdict("audio", dataclasses.replace(KEPT, figures={"levels": [1000.001, 2.0]}), KEPT)
