"""Whatever our own OpenAPI document allows, and what it does not: never a 500."""

import contextlib
from collections import defaultdict
from typing import Any

import httpx
import pytest

hypothesis = pytest.importorskip("hypothesis")
schemathesis = pytest.importorskip("schemathesis")
ENDLESS = "/live/events"


def test_no_request_of_our_own_document_is_a_500(served: Any) -> None:
    settings = hypothesis.settings(
        max_examples=10,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    codes: dict[str, set[int]] = defaultdict(set)

    def call(case: Any) -> None:
        answer = case.call(timeout=30)
        codes[case.path].add(answer.status_code)
        assert answer.status_code != 500, (case.as_curl_command(), answer.text)
        if answer.status_code >= 400:
            assert answer.json()["error"]["message"], case.as_curl_command()

    with served(source={"front": "synthetic://?live=1"}, context=1024, deadline_s=2) as address:
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        for operation in operations:
            if operation.path != ENDLESS:
                for mode in schemathesis.GenerationMode:
                    # Where nothing is given, nothing can be given wrongly.
                    with contextlib.suppress(hypothesis.errors.Unsatisfiable):
                        settings(hypothesis.given(operation.as_strategy(generation_mode=mode))(call))()
        assert httpx.get(f"{address}/health").status_code == 200
    assert {"/v1/chat/completions", "/live", "/live/{name}/threshold", "/metrics"} <= set(codes)
    assert 200 in codes["/live"] and 400 in codes["/v1/chat/completions"]
