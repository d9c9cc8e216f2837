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


WITHOUT_EFFECT = {
    "name": "other",
    "corpus": {"allow_licences": ("CC0",), "max_bad_share": 0.5},
    "encode": {"batch_s": 60.0},
    "pack": {"multiple_of": 8},
    "train": {
        "checkpoint_every": 2,
        "keep_checkpoints": 3,
        "keep_best": 1,
        "attention": "loop",
        "num_threads": 1,
        "recompute": "cheap",
    },
    "evaluate": {"batch_size": 3},
}
"""Other values of fields that are declared to change no result; those left out need a GPU, or minutes."""


def changed(config, values):
    """A configuration with other values, each of a field that is declared to change no result."""
    declared = {field.name: field.metadata.get("result", True) for field in dataclasses.fields(config)}
    new = {}
    for name, value in values.items():
        if isinstance(value, dict):
            new[name] = changed(getattr(config, name), value)
        else:
            assert declared[name] is False, name
            assert value != getattr(config, name), name
            new[name] = value
    return dataclasses.replace(config, **new)


def test_fields_declared_to_change_no_result_change_none(tmp_path):
    other = dict(fingerprints(build(tmp_path, lambda recipe: changed(recipe, WITHOUT_EFFECT))))
    for name in NAMES:
        assert not verdict(name, other[name], read(name))


KEPT = Fingerprint({"render": "1"}, "abc", {"levels": [1000.0, 2.0]})


def test_a_changed_digest_under_the_same_version_asks_for_a_higher_one():
    assert "raise the version of render" in verdict("audio", dataclasses.replace(KEPT, digest="abd"), KEPT)
    louder = dataclasses.replace(KEPT, figures={"levels": [1010.0, 2.0]})
    assert "raise the version of render" in verdict("audio", louder, KEPT)
    raised = dataclasses.replace(louder, versions={"render": "2"})
    assert verdict("audio", raised, KEPT).endswith("make golden")


def test_what_another_processor_rounds_is_no_change():
    assert not verdict("audio", dataclasses.replace(KEPT, figures={"levels": [1000.001, 2.0]}), KEPT)
