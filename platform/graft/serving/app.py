"""The HTTP API of the models that a process serves, as an ASGI app.

The event loop only moves bytes: images are decoded in threads, and forwards run in one more,
so that ``/healthz`` answers however busy the model is.
"""

import reprlib
from collections.abc import Sequence
from time import perf_counter
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from swagger_ui_bundle import swagger_ui_path

from graft import __version__
from graft.decisions.rules import UNKNOWN, UNKNOWN_NAME
from graft.errors import ImageError, ServingLost, StoreError
from graft.serving.alias_follower import Current
from graft.serving.answering import Answerer
from graft.serving.authentication import SCHEMES, Authentication
from graft.serving.doors import Doors, caller_of
from graft.serving.error_responses import (
    Guard,
    refuse,
    refuse_for_now,
    refuse_image,
    refuse_parameter,
)
from graft.serving.exchange import Predicted, Watched, Watcher
from graft.serving.keys import KeyRing
from graft.serving.limits import DEFAULT_LIMITS, Limits
from graft.serving.predictor import Predictor
from graft.serving.request_body import OPENAPI
from graft.serving.served_models import Served
from graft.serving.stats import CountsByModel, Stats

PROBES = frozenset({"", "/", "/healthz"})
"""Paths that load balancers ask every few seconds: no log or figure has them."""


class Prediction(BaseModel):
    """One class and how likely it is."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    class_: str = Field(alias="class")
    probability: float


class Timing(BaseModel):
    """How long the parts of an answer took, in milliseconds."""

    decode: float = Field(description="From the body to the pixels the model sees.")
    predict: float = Field(description="The forward, and the wait for it to begin.")
    total: float = Field(description="All of the above, and reading the body.")


class Answer(BaseModel):
    """The likeliest classes of an image, and what is decided of it."""

    model: str = Field(description="NAME@VERSION that answered.")
    predictions: list[Prediction] = Field(description="Likeliest first.")
    decision: str = Field(description=f"The class that is the answer, or '{UNKNOWN_NAME}'.")
    why: str = Field(description="Why that.")
    set: list[str] | None = Field(
        description="Classes that it may be, where the version's decision makes sets."
    )
    decided_by: int | None = Field(
        description="Number of the version's decision; null: it has none, the likeliest is it."
    )
    timing_ms: Timing


class ServedModel(BaseModel):
    """A model that this server answers for."""

    name: str
    version: int
    arch: str
    classes: list[str]
    engine: str = Field(description="What computes it: torch, or onnx, which is ONNX Runtime.")
    engine_reason: str = Field(description="Why that one.")
    decided_by: int | None = Field(
        description="Number of the decision that says what its answers mean; null: it has none."
    )

    @classmethod
    def of(cls, predictor: Predictor) -> "ServedModel":
        """Return what a predictor answers for."""
        version = predictor.version
        return cls(
            name=version.name,
            version=version.version,
            arch=version.arch,
            classes=list(version.classes),
            engine=predictor.engine.name,
            engine_reason=predictor.reason,
            decided_by=predictor.decision and predictor.decision.number,
        )


class Models(BaseModel):
    """All models that this server answers for."""

    models: list[ServedModel]


class Health(BaseModel):
    """The server takes requests."""

    status: str
    model: str = Field(description="NAME@VERSION that answers, of several models with commas.")
    refused: str | None = Field(
        description="What an alias points at, where that cannot answer, and why."
    )


class Refusal(BaseModel):
    """Why a request was refused."""

    error: str


_LATER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "model": Refusal,
        "description": "400 broken request, 404 no such model, 401 no valid key and 403 a key for "
        "something else, where keys are asked for, 431 large headers",
        "headers": _LATER,
    },
    "5XX": {
        "model": Refusal,
        "description": "500 an error of the server, with its id; 503 it is busy: "
        "try again after Retry-After seconds",
        "headers": _LATER,
    },
}
"""What every path answers beside what it is for, as OpenAPI documents it."""


def create_app(
    *currents: Current,
    decode_threads: int = 2,
    limits: Limits = DEFAULT_LIMITS,
    origins: Sequence[str] = (),
    ring: KeyRing | None = None,
    watchers: Sequence[Watcher] = (),
    echoes_ids: bool = True,
) -> FastAPI:
    """Return the app that answers for models, each with its current predictor.

    Its ``state.check`` is a coroutine function that hangs or raises once no image can be
    answered any more.

    Args:
        currents: what answers; a predictor may change at any time, a model's name may not.
        decode_threads: how many images are decoded at once.
        limits: what it bears.
        origins: origins of pages in browsers that may ask, as `https://HOST`; `*`: all may.
        ring: the keys of those who may ask; None: everybody may.
        watchers: who is told of every request and its answer.
        echoes_ids: whether answers get X-Request-Id here; else whoever runs the app sends it.
    """
    served = Served(currents)
    answerer = Answerer(decode_threads, limits)
    app = FastAPI(
        title=f"Graft: {served}",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        responses=REFUSALS,
        exception_handlers={
            HTTPException: refuse,
            RequestValidationError: refuse_parameter,
            ImageError: refuse_image,
            ServingLost: refuse_for_now,
            StoreError: refuse_for_now,
        },
    )
    # The bundled Swagger UI reads OpenAPI 3.0, not 3.1.
    app.openapi_version = "3.0.3"
    counts = CountsByModel(served.names)
    if ring is not None:
        app.add_middleware(Authentication, ring=ring)
        _document_keys(app)
    app.add_middleware(Guard, header_bytes=limits.header_bytes)
    app.add_middleware(
        Watched,
        watchers=(counts, *watchers),
        unwatched=PROBES,
        models=frozenset(served.names),
        echoes_ids=echoes_ids,
    )
    if origins:  # outermost: browsers show a page no refusal without the headers
        _allow_pages(app, origins)
    app.mount("/docs/assets", StaticFiles(directory=swagger_ui_path))

    async def check() -> None:
        await answerer.check(served.first.predictor)

    app.state.check = check
    _add_predict(app, served, answerer, Doors(limits))
    _add_descriptions(app, served)
    _add_stats(app, served, counts)
    return app


def _allow_pages(app: FastAPI, origins: Sequence[str]) -> None:
    """Let pages of other origins ask from browsers."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "X-API-Key", "X-Request-Id", "traceparent"],
        expose_headers=["Retry-After", "X-Request-Id"],
        max_age=3600,
    )


def _document_keys(app: FastAPI) -> None:
    """Have the API's description say that it wants a key, and how one is sent."""
    describe = app.openapi

    def with_keys() -> dict[str, Any]:
        document = describe()
        document["components"]["securitySchemes"] = SCHEMES
        document["security"] = [{name: []} for name in SCHEMES]
        return document

    app.openapi = with_keys  # type: ignore[method-assign]  # as FastAPI's own documentation does


def _add_predict(app: FastAPI, served: Served, answerer: Answerer, doors: Doors) -> None:
    Name = _name_of(served)  # noqa: N806 - a type

    @app.post(
        "/v1/models/{name}/predict",
        response_model=Answer,
        openapi_extra=OPENAPI,
        responses={
            "4XX": REFUSALS["4XX"]
            | {
                "description": "400 broken request, 404 no such model, "
                "401 no valid key and 403 a key for something else, where keys are asked for, "
                "408 the body comes too slowly, 413 body or image too large, "
                "415 not an image, or a compressed body, 429 too much at once, 431 large headers",
            },
        },
    )
    async def predict(
        name: Name,  # type: ignore[valid-type]
        request: Request,
        top_k: Annotated[int, Query(ge=1, description="How many classes, at most.")] = 5,
    ) -> Response:
        """Classify one image: send it as the raw body, a multipart file or base64 in JSON."""
        current = served.find(name)
        asked = [key for key, _ in request.query_params.multi_items()]
        if asked not in ([], ["top_k"]):
            raise HTTPException(
                400, f"found query parameters {reprlib.repr(asked)}, expected top_k once, or none"
            )
        start, caller = perf_counter(), caller_of(request)
        with doors.place(caller) as held:
            body = await doors.read_body(request, held)
            received = perf_counter()
            predictor = current.predictor  # computes the whole answer, even if replaced meanwhile
            content_type = request.headers.get("content-type", "")
            async with doors.at_work(caller):
                answered = await answerer.answer(predictor, content_type, body)
        end = perf_counter()
        meant = predictor.answer(answered.logits[None])
        classes, probabilities = predictor.version.classes, meant.probabilities[0]
        best = int(np.argmax(probabilities))
        request.state.exchange.predicted = Predicted(
            model=predictor.version.ref,
            class_=classes[best],
            probability=float(probabilities[best]),
            decision=meant.name(0),
            is_unknown=int(meant.decided[0]) == UNKNOWN,
            batch=answered.batch,
            decode_s=answered.decode_s,
            wait_s=answered.wait_s,
            forward_s=answered.forward_s,
        )
        answer = Answer(
            model=predictor.version.ref,
            predictions=[
                Prediction(class_=classes[i], probability=float(probabilities[i]))
                for i in np.argsort(-probabilities, kind="stable")[:top_k]
            ],
            decision=meant.name(0),
            why=meant.why(0),
            set=meant.set_of(0),
            decided_by=predictor.decision and predictor.decision.number,
            timing_ms=Timing(
                decode=round(1e3 * answered.decode_s, 2),
                predict=round(1e3 * (end - received - answered.decode_s), 2),
                total=round(1e3 * (end - start), 2),
            ),
        )
        # FastAPI would check it against its type once more.
        return Response(answer.model_dump_json(by_alias=True), media_type="application/json")


def _name_of(served: Served) -> Any:
    """Return the type of a path's NAME, whose description has the names that there are."""
    return Annotated[str, Path(json_schema_extra={"enum": [*served.names]})]


def _add_stats(app: FastAPI, served: Served, counts: CountsByModel) -> None:
    Name = _name_of(served)  # noqa: N806 - a type

    @app.get("/v1/models/{name}/stats")
    async def stats(name: Name) -> Stats:  # type: ignore[valid-type]
        """Tell what this replica has done since it began; with keys, to those for admin."""
        return counts.stats(served.find(name).predictor.version)


def _add_descriptions(app: FastAPI, served: Served) -> None:
    """Add what tells about the server: its models, its health and its documentation."""
    Name = _name_of(served)  # noqa: N806 - a type

    @app.get("/v1/models")
    async def models() -> Models:
        """List the models that this server answers for."""
        return Models(models=[ServedModel.of(one.predictor) for one in served.answering])

    @app.get("/v1/models/{name}")
    async def model(name: Name) -> ServedModel:  # type: ignore[valid-type]
        """Tell which version answers for a model, and what computes it."""
        return ServedModel.of(served.find(name).predictor)

    @app.get("/", include_in_schema=False)  # what load balancers ask by default
    @app.get("/healthz", openapi_extra={"security": []})
    async def healthz() -> Health:
        """Answer once a model is loaded and has passed its golden images."""
        return Health(
            status="ok",
            model=", ".join(one.predictor.version.ref for one in served.answering),
            refused="; ".join(served.refused) or None,
        )

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        # Relative addresses: the page works behind any prefix, and needs no other host.
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url="docs/assets/swagger-ui-bundle.js",
            swagger_css_url="docs/assets/swagger-ui.css",
            swagger_favicon_url="docs/assets/favicon-32x32.png",
        )
