"""One model for everybody on the network: the endpoint that OpenAI's clients speak, and metrics. Extra `serve`."""

from score_edge.errors import require

for _module in ("fastapi", "uvicorn", "pydantic", "prometheus_client", "paho"):
    require(_module, "serve")
