"""`graft predict`: ask a served model about images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.cli.options import Json
from graft.cli.show.output import emit
from graft.errors import InputError, NotFoundError, ServingError, ServingLost

if TYPE_CHECKING:
    import httpx
    from rich.table import Table

TIMEOUT_S = 60.0
BUSY = (429, 502, 503, 504)
"""Status codes of a server, or of a door before it, that cannot answer just now."""
RETRY_S = 60.0
"""How long an image is sent again to a server that says when to (Retry-After), in seconds."""
CONCURRENT = 8
"""Images asked about at the same time; the server answers them in batches."""


def predict(
    name: Annotated[str, typer.Argument(help="The served model's name.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...")],
    url: Annotated[str, typer.Option(help="Where it is served.")] = "http://127.0.0.1:8000",
    top_k: Annotated[int, typer.Option(min=1, help="How many classes, at most.")] = 5,
    key: Annotated[
        str | None,
        typer.Option(
            envvar="GRAFT_API_KEY",
            metavar="KEY",
            help="API key; other users of this machine may see it here, and not in the variable.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Send images to a served model and print the likeliest classes.

    Images that the server refuses are reported after the answers to the others, with
    exit code 2. A busy server is asked again when it says so, for up to a minute; after that
    the exit code is 75.

    Example: graft predict ants-bees new.jpg --top-k 3
    """
    from concurrent.futures import ThreadPoolExecutor

    import httpx

    for path in images:
        if not path.is_file():
            scheme, elsewhere, rest = str(path).partition(":/")  # of "://" a path keeps one slash
            if elsewhere and scheme.isalnum():
                raise InputError(
                    f"{scheme}://{rest}: only local files are sent; download it, and send that"
                )
            raise InputError(f"{path}: no such file")
    if key and not (key.isascii() and key.isprintable()):
        raise InputError(
            "--key has characters that no key has; expected what `graft keys new` printed"
        )
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        client = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S)
    except httpx.InvalidURL as error:
        raise InputError(f"--url {url}: {error}") from error
    with client:

        def ask(path: Path) -> dict[str, Any]:
            return _ask(client, name, path, top_k)

        with ThreadPoolExecutor(CONCURRENT) as pool:
            answers = list(pool.map(ask, images))

    emit({"images": answers}, json, lambda: _table(answers))
    refused = [answer for answer in answers if "error" in answer]
    if refused:
        first = refused[0]
        raise InputError(
            f"{len(refused)} of {len(answers)} images refused; {first['image']}: {first['error']}"
        )


def _ask(client: "httpx.Client", name: str, path: Path, top_k: int) -> dict[str, Any]:
    """Return the server's answer about one image, or its reason to refuse it as `error`."""
    from urllib.parse import quote

    import httpx

    try:
        answer = _post(client, f"/v1/models/{quote(name, safe='')}/predict", path, top_k)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except httpx.UnsupportedProtocol as error:
        raise InputError(f"--url {client.base_url}: expected http:// or https://") from error
    except httpx.TransportError as error:
        raise ServingLost(
            f"no answer from {client.base_url} ({error or type(error).__name__}); "
            "is `graft serve` running there? Else try again later"
        ) from error
    try:
        document = answer.json()
    except ValueError:
        document = None
    if isinstance(document, dict) and answer.is_success and "predictions" in document:
        return {"image": str(path), **document}
    busy = answer.status_code in BUSY
    if isinstance(document, dict) and answer.is_client_error and "error" in document and not busy:
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise InputError(f"{client.base_url}: {document['error']}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise NotFoundError(f"{client.base_url}: {document['error']}")
        return {"image": str(path), "error": document["error"]}
    text = f"{client.base_url} answered with HTTP {answer.status_code}: {_said(answer, document)}"
    if busy:
        raise ServingLost(f"{text}; try again later")
    raise ServingError(text)


def _post(client: "httpx.Client", address: str, path: Path, top_k: int) -> "httpx.Response":
    """Send an image, again and again where a busy server says when, and return its last answer."""
    import time

    data, deadline = path.read_bytes(), time.monotonic() + RETRY_S
    while True:
        answer = client.post(address, params={"top_k": top_k}, content=data)
        later = answer.headers.get("retry-after", "")
        if answer.status_code not in BUSY or not later.isdecimal():
            return answer
        if time.monotonic() + int(later) > deadline:
            return answer
        time.sleep(int(later))


def _said(answer: "httpx.Response", document: object) -> str:
    """Return what a server said instead of predictions, on one short line."""
    if isinstance(document, dict) and "error" in document:
        return str(document["error"])
    text = " ".join(answer.text.split())
    start = text[:200] + ("..." if len(text) > 200 else "")
    return f"{start or 'nothing'}; is that `graft serve`?"


def _table(answers: list[dict[str, Any]]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table("image", "decision", "class", "probability", "others")
    for answer in answers:
        if "error" in answer:
            table.add_row(escape(answer["image"]), "", "[red]refused", "", escape(answer["error"]))
            continue
        best, *others = answer["predictions"]
        rest = ", ".join(f"{other['class']} {other['probability']:.3f}" for other in others)
        decision = answer.get("decision", best["class"])  # servers of earlier releases have none
        cells = (answer["image"], decision, best["class"], f"{best['probability']:.3f}", rest)
        table.add_row(*map(escape, cells))
    return table
