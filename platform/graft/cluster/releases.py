"""Which releases of `graft submit`, of a namespace's profile and of its image go together.

They need not be the same. A newer client sends what the image's release knows, or nothing. An older
one takes a newer profile, whose keys it may ignore from the release `min_client` on.
"""

from typing import Any

from packaging.version import InvalidVersion, Version
from pydantic import ValidationError

from graft import __version__
from graft.cluster.profile import Profile
from graft.errors import InputError, SpecError
from graft.spec import Job, parse_yaml
from graft.spec.explain import explain
from graft.spec.since import keys_unknown_to


def read_profile(text: str, title: str) -> Profile:
    """Return the profile in the text of a chart's ConfigMap, whatever release made it.

    Keys of other releases are ignored. In a profile of this release an unknown key is a mistake.

    Args:
        text: YAML.
        title: what names it in errors.

    Raises:
        InputError: this release is too old for it, or it is none.
    """
    document = parse_yaml(text, title)
    if not isinstance(document, dict):
        raise InputError(f"{title}: expected a mapping, found {type(document).__name__}")
    version, min_client = document.get("version"), document.get("min_client")
    install = f"; install Graft {version}" if version else ""
    if min_client and _version(min_client, title) > Version(__version__):
        raise InputError(
            f"{title} is for Graft {min_client} or newer, this is {__version__}{install}"
        )
    try:
        return Profile.model_validate(document)
    except ValidationError as error:
        unknown = [one["loc"] for one in error.errors() if one["type"] == "extra_forbidden"]
        if version == __version__ or len(unknown) < error.error_count():
            problems = "; ".join(explain(title, Profile, error))
            raise InputError(f"made for another release of Graft: {problems}{install}") from error
    for path in unknown:
        _remove(document, path)
    return Profile.model_validate(document)


def check_release(spec: Job, profile: Profile, image: str) -> None:
    """Find out whether a job's image knows all keys that its spec sets.

    Nothing is known of an image whose tag is no version, and which is not the profile's own.

    Raises:
        InputError: the profile is of a chart that did not say which release it is of.
        SpecError: it is of an older release, which would refuse them once its pods run.
    """
    if profile.version is None:
        raise InputError(
            "nothing is sent: the namespace's chart is of before releases were told apart, so what "
            f"its image understands is not known; install the chart of Graft {__version__} there, "
            "with its image (helm upgrade), or take the client that came with that chart"
        )
    release = _release_of(image)
    if image == profile.image and profile.version:
        release = profile.version
    if release is None:
        return
    _version(release, f"the release of image {image}")
    if unknown := keys_unknown_to(release, spec):
        raise SpecError(
            f"image {image} is of Graft {release}, which does not know {', '.join(unknown)}; leave "
            f"that out, as Graft {release} would, or ask for a newer image"
        )


def _release_of(image: str) -> str | None:
    """Return the release that an image's tag names: `registry:5000/graft:0.2.0`."""
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2].removeprefix("v")
    try:
        Version(tag)
    except InvalidVersion:
        return None
    return tag if "." in tag else None


def _version(text: object, title: str) -> Version:
    try:
        return Version(str(text))
    except InvalidVersion as error:
        raise InputError(f"{title}: '{text}' is no version; expected such as 0.2.0") from error


def _remove(document: Any, path: tuple[int | str, ...]) -> None:
    for part in path[:-1]:
        document = document[part]
    del document[path[-1]]
