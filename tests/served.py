"""A server in this process, as the tests ask it."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from fastapi.testclient import TestClient

from flax_s2s.commands import serve
from flax_s2s.commands.serve import Options
from flax_s2s.runs import rundir
from flax_s2s.runs.rundir import make_path
from flax_s2s.serving.app import Settings, make_app
from flax_s2s.serving.limits import Limits

OPTIONS = Options("127.0.0.1", 0, "best", False, (), "", 0.0, "[uncertain]", (), 4000, 16, 32, 60.0)


def serving(names: list[str], options: Options = OPTIONS, **fields: Any) -> Iterator[TestClient]:
    """A server in this process that is ready, with few shapes."""
    decoding = serve.settings_of(rundir.read_config(make_path(names[0]))) if not serve.is_exported(names[0]) else None
    chosen: Any = dataclasses.replace(decoding, **{"max_source_tokens": 24, **fields}) if decoding else None
    app = make_app(serve._open(names, chosen, options, lambda: False), Settings(Limits(4000, 16, 32, 60.0)))
    with TestClient(app, raise_server_exceptions=False) as client:
        assert app.state.desk.ready.wait(600)
        yield client


def own(client: TestClient, **asked: Any) -> list[dict[str, Any]]:
    response = client.post("/v1/translate", json=asked)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["translations"]
    return found
