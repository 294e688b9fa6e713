import pytest

from dvcr.digest import Digest
from dvcr.errors import ConfigError
from importer.reference import ImageReference

HEX = "a" * 64


@pytest.mark.parametrize(
    ("text", "repository", "reference"),
    [
        ("cvmi/debian", "cvmi/debian", "latest"),
        ("cvmi/debian:12", "cvmi/debian", "12"),
        (f"vmi/ns/x@sha256:{HEX}", "vmi/ns/x", Digest("sha256", HEX)),
    ],
)
def test_parse(text: str, repository: str, reference: str | Digest) -> None:
    parsed = ImageReference.parse(text)
    assert parsed == ImageReference(repository, reference)
    assert ImageReference.parse(str(parsed)) == parsed


def test_wrong_digest() -> None:
    with pytest.raises(ConfigError, match="64"):
        ImageReference.parse("cvmi/debian@sha256:123")
