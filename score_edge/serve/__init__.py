"""One model for everybody on the network: live cameras, OpenAI's endpoint, a page, MQTT, metrics. Extra `serve`."""

from score_edge.errors import require

for _module in ("fastapi", "uvicorn", "pydantic", "prometheus_client", "paho"):
    require(_module, "serve")
