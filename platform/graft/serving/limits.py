"""What one server bears, in numbers; whatever asks for more is refused with a reason."""

from dataclasses import dataclass

MOST_MEGAPIXELS = 80
"""No server can be told to take larger images than import does, `data.image.MAX_PIXELS`."""


@dataclass(frozen=True)
class Limits:
    """Limits of one replica. Nothing that a client sends costs more than they allow."""

    body_bytes: int = 20_000_000
    """Largest request body."""
    header_bytes: int = 32_768
    """Largest headers and address of a request, together. A cookie or a token of a proxy that signs
    people in has up to 16 KB."""
    json_values: int = 32
    """Most objects, arrays and members in a JSON body; what is asked for has one."""
    megapixels: float = 50
    """Most millions of pixels of an image: phones have cameras of up to 50. A large image
    takes up to 9 MiB and 0.1 CPU seconds for each million."""
    jpeg_scans: int = 64
    """Most scans of a JPEG, each of which costs as much as the image: cameras write one, the web's
    progressive JPEGs have about ten."""
    patience_s: float = 10
    """How long the headers, or the body, may take, in seconds ..."""
    body_rate: int = 50_000
    """... beside the time that the body takes at so many bytes a second."""
    answer_s: float = 30
    """How long an answer may take once the body is here, in seconds."""
    wait_s: float = 10
    """A request that would wait for longer, in seconds, is refused at once."""
    places: int = 256
    """Most requests in a replica at the same time."""
    held_bytes: int = 400_000_000
    """Most bytes of bodies that a replica holds in memory."""

    def body_seconds(self, size: int) -> float:
        """Return how long a body of `size` bytes may take to arrive."""
        return self.patience_s + size / self.body_rate


DEFAULT_LIMITS = Limits()
