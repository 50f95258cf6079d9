"""The API is as its description says: requests drawn from it get answers that it allows, no 5xx."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from graft.registry import get_model
from graft.serving.alias_follower import Current
from graft.serving.app import create_app
from graft.serving.keys import KeyRing, new_key
from graft.serving.predictor import Predictor
from graft.store import Store

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import load_all_checks
    from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

pytestmark = pytest.mark.slow  # hundreds of requests are drawn: 10 seconds

DRAWN = settings(
    max_examples=100,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("with_keys", [False, True])
def test_whatever_is_asked_the_description_has_the_answer(
    model_store: Store, tmp_path: Path, mode: GenerationMode, with_keys: bool
) -> None:
    ring, headers = None, {}
    if with_keys:
        file = tmp_path / "keys.json"
        headers = {"X-API-Key": new_key(file, "all", ("predict", "admin"))}
        ring = KeyRing(file)
    predictor = Predictor.load(model_store, get_model(model_store, "ants-bees"))
    app = create_app(Current(predictor), ring=ring)
    load_all_checks()
    asked = []
    for result in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations():
        operation = result.ok()
        if mode is GenerationMode.POSITIVE or list(operation.iter_parameters()):
            DRAWN(given(operation.as_strategy(generation_mode=mode))(validated(mode, headers)))()
            asked.append(operation.path)
    assert "/v1/models/{name}/predict" in asked


def validated(mode: GenerationMode, headers: dict[str, str]) -> Callable[[Any], None]:
    """Return what sends a drawn request, and checks the answer."""

    def validate(case: Any) -> None:
        # What is in a string or a part no description can say; of a body's type images are drawn.
        nested = case.media_type in ("application/json", "multipart/form-data")
        excluded = [positive_data_acceptance] if nested else []
        if mode is GenerationMode.NEGATIVE:
            excluded.append(ignored_auth)  # drawn keys are beside ours, which is valid
        case.call_and_validate(headers=headers, excluded_checks=excluded)

    return validate
