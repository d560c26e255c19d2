"""Schemathesis against a real port: responses to valid and invalid input conform to the API reference."""

from functools import partial
from typing import Any

import pytest
import schemathesis
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from bluesminds.web.docs.relayed_endpoints import RELAYED
from tests.deployment import Callers, anonymous_client

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
# The statuses that schemathesis expects for invalid input, and 414.
REFUSALS = [400, 401, 403, 404, 405, 406, 409, 413, 414, 415, 422, 428, 429]
CONFIG = schemathesis.Config.from_dict(
    {"checks": {"negative_data_rejection": {"expected-statuses": REFUSALS}}}
)
CHAT = "/v1/chat/completions"
# The gateway does not validate the messages and the bodies of relayed requests; the server does.
PASSED_ON = {CHAT, *(operation.path for operation in RELAYED)}


@pytest.mark.process
@pytest.mark.parametrize(
    ("callers", "role", "examples"),  # examples: requests to each operation
    [("sqlite", "anonymous", 1), ("sqlite", "user", 3), ("sqlite", "admin", 8), ("postgres", "admin", 3)],
    indirect=["callers"],
)
async def test_operations_conform_to_the_reference(role: str, examples: int, callers: Callers) -> None:
    document = (await callers.gateway.get("/openapi.json")).json()
    wrong: list[str] = []
    await trio.to_thread.run_sync(try_all, document, role, examples, callers, wrong)
    assert "\n\n".join(wrong) == ""
    assert callers.gateway.events("control_failed") == []
    assert callers.gateway.events("request_failed") == []


def try_all(document: dict[str, Any], role: str, examples: int, callers: Callers, wrong: list[str]) -> None:
    """Runs in a thread, because schemathesis is synchronous."""
    for found in schemathesis.openapi.from_dict(document, config=CONFIG).get_all_operations():
        operation = found.ok()
        if operation.path.endswith("/stream"):  # does not end while the test waits
            continue
        for mode in GenerationMode:
            if mode is GenerationMode.NEGATIVE and not takes_input(operation, role):
                continue
            try:
                tried(operation, mode, partial(credential, role, callers), callers, examples)()
            except (Exception, BaseExceptionGroup) as exc:
                wrong.append(f"{operation.label} ({mode.value}): {exc!r}"[:3000])


def takes_input(operation: Any, role: str) -> bool:
    """Any id is valid, so a request without body and query cannot be invalid. A wrong credential is refused
    before the input is read.
    """
    is_refused = role == "anonymous" and bool(operation.definition.raw["security"])
    return bool(operation.body or operation.query) and not is_refused


def credential(role: str, callers: Callers, path: str) -> dict[str, str]:
    """A new session per request, because some requests end their session."""
    if role == "anonymous":
        return {"authorization": "Bearer nothing"}
    if path.startswith("/v1/"):
        return {"authorization": f"Bearer {callers.keys['good']}"}
    token, _, _ = trio.from_thread.run(callers.session, role)
    return {"authorization": f"Bearer {token}"}


def tried(operation: Any, mode: GenerationMode, headers: Any, callers: Callers, examples: int) -> Any:
    """A property: `examples` requests to one operation, some of them with existing ids."""
    real = {"key_id": callers.key_ids["good"], "user_id": callers.users["other"], "name": "one", "id": "m"}
    checks = CHECKS[:-1] if operation.path in PASSED_ON else CHECKS

    @settings(
        max_examples=examples,
        database=None,
        deadline=None,  # in this thread there is no profile
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), exists=st.booleans())
    def property_(case: Any, exists: bool) -> None:
        if exists and mode is GenerationMode.POSITIVE:
            case.path_parameters = {
                name: real.get(name, value) for name, value in case.path_parameters.items()
            }
            if operation.path == CHAT:
                case.body["model"] = "m"
        case.headers = {}
        case.call_and_validate(
            base_url=callers.gateway.url, headers=headers(operation.path), checks=checks, timeout=60
        )

    return property_


async def test_error_response_conforms_to_the_reference(callers: Callers) -> None:
    document = (await callers.gateway.get("/openapi.json")).json()
    async with anonymous_client(callers.gateway) as client:
        refused = (await client.get("/api/admin/users")).json()
    schema = document["components"]["schemas"]["ErrorObject"]
    assert refused.keys() == {"error"}
    assert refused["error"].keys() == schema["properties"].keys() == set(schema["required"])
