"""Profiles, clients and images of different releases."""

import json
from typing import Any

import pytest

import graft
from colours import colour_spec
from graft.cluster.profile import Profile
from graft.cluster.releases import check_release, read_profile
from graft.errors import InputError, SpecError
from graft.spec import Finetune
from graft.spec.since import added

PROFILE: dict[str, Any] = {
    "image": "registry.example:5000/graft:0.2.0",
    "allowed_images": ["*"],
    "store": "s3://bucket",
    "service_account": "graft",
    "classes": {"cpu": {}},
    "default_class": "cpu",
}
NEWER: dict[str, Any] = PROFILE | {
    "version": "0.9.0",
    "classes": {"cpu": {"colour": "red"}},
    "pods": {"tides": "high"},
    "moons": [1],
}


def read(document: dict[str, Any]) -> Profile:
    return read_profile(json.dumps(document), "profile graft")


def test_what_an_older_chart_did_not_write_has_its_default() -> None:
    assert read(PROFILE) == Profile.model_validate(PROFILE)


@pytest.mark.parametrize("min_client", [None, graft.__version__, "0.0.9"])
def test_keys_of_a_newer_profile_are_ignored_where_they_may_be(min_client: str | None) -> None:
    profile = read(NEWER | {"min_client": min_client})
    known = {"version": "0.9.0", "min_client": min_client}
    assert profile == Profile.model_validate(PROFILE | known)


def test_keys_that_an_older_chart_wrote_are_ignored() -> None:
    """Such as those of 48723a8, which did not say its release."""
    gone = {"nights": {"cpu": "100m"}}
    assert read(PROFILE | gone) == read(PROFILE)
    assert read(PROFILE | gone | {"version": "0.0.1"}).version == "0.0.1"


def test_a_client_that_is_too_old_is_told_what_to_install() -> None:
    with pytest.raises(InputError) as error:
        read(NEWER | {"min_client": "0.8.0"})
    assert str(error.value) == (
        f"profile graft is for Graft 0.8.0 or newer, this is {graft.__version__}; "
        "install Graft 0.9.0"
    )


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (PROFILE | {"version": graft.__version__, "stor": "s3://x"}, "unknown key 'stor'"),
        (NEWER | {"store": 7}, "'store' is 7; .*install Graft 0.9.0"),
        (NEWER | {"min_client": "soon"}, "'soon' is no version; expected such as 0.2.0"),
    ],
)
def test_mistakes_are_not_taken_for_another_release(document: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(document)
    with pytest.raises(InputError, match="expected a mapping, found str"):
        read_profile("profile", "profile graft")


class Newer(Finetune):
    """A job's spec of a release to come."""

    tides: str = added("0.3.0", "low")


def newer(**changes: Any) -> Newer:
    return Newer.model_validate(colour_spec().model_dump(by_alias=True) | changes)


@pytest.mark.parametrize(
    ("image", "version", "release"),
    [
        (PROFILE["image"], "0.2.0", "0.2.0"),
        ("graft@sha256:00", "0.2.0", "0.2.0"),  # the profile says it
        ("graft:main", "0.3.0", None),
    ],
)
def test_a_key_that_the_image_does_not_know_is_refused(
    image: str, version: str, release: str | None
) -> None:
    profile = Profile.model_validate(PROFILE | {"image": image, "version": version})
    check_release(newer(), profile, image)
    if release is None:
        check_release(newer(tides="high"), profile, image)
        return
    with pytest.raises(SpecError) as error:
        check_release(newer(tides="high"), profile, image)
    assert f"image {image} is of Graft {release}" in str(error.value)
    assert "does not know tides (of Graft 0.3.0)" in str(error.value)


def test_nothing_is_sent_where_the_chart_does_not_say_its_release() -> None:
    profile = Profile.model_validate(PROFILE)
    assert profile.version is None
    with pytest.raises(InputError, match=rf"install the chart of Graft {graft.__version__} there"):
        check_release(colour_spec(), profile, profile.image)


def test_another_image_goes_by_its_own_tag() -> None:
    profile = Profile.model_validate(PROFILE | {"version": "0.2.0"})
    for image in ("graft:0.3.0", "graft:main", "graft"):  # newer, or not known
        check_release(newer(tides="high"), profile, image)
    with pytest.raises(SpecError, match=r"Graft 0\.1\.0"):
        check_release(newer(tides="high"), profile, "graft:0.1.0")
