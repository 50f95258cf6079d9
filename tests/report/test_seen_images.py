"""What images did for a model, by which they do or do not judge it."""

from graft.data.index import Image, Images
from graft.report.seen_images import roles_of


def images(*digits: str) -> Images:
    return Images.of(Image(d * 32, f"{d}.png", 0, "train", 0, 0, 1, 32, 32) for d in digits)


def test_what_trained_has_trained_whatever_else_it_did() -> None:
    roles = roles_of(images("aa", "bb"), images("bb", "cc"))
    chose = "chose the epoch, rate or depth of"
    assert roles == {"aa" * 32: "trained", "bb" * 32: "trained", "cc" * 32: chose}
