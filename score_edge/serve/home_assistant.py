"""What Home Assistant is told over MQTT so that cameras become its devices by themselves.

One retained message per entity: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Any, Final

from score_edge import __version__

STATES: Final = ("connecting", "live", "lost", "paused")
_STATE_CHARACTERS: Final = 255  # more of a state Home Assistant refuses; the attributes have all of it
_SURPRISED_S: Final = 30


def discovery(prefix: str, camera: str, model: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Topics and messages that make one camera a device with four entities.

    Args:
        prefix: of our topics.
        camera: its name.
        model: the bundle's name.

    Example:
        >>> [topic for topic, _ in discovery("score-edge", "front", "reference")][0]
        'homeassistant/sensor/score-edge-front/answer/config'
    """
    node = f"{_identifier(prefix)}-{_identifier(camera)}"
    here = f"{prefix}/{camera}"
    online = {"topic": f"{prefix}/status"}
    live = {
        "topic": f"{here}/state",
        "value_template": "{{ 'online' if value_json.state == 'live' else 'offline' }}",
    }
    entities: dict[tuple[str, str], dict[str, Any]] = {
        ("sensor", "answer"): {
            "name": "Last answer",
            "icon": "mdi:message-text-outline",
            "state_topic": f"{here}/answer",
            "value_template": f"{{{{ value_json.answer[:{_STATE_CHARACTERS}] }}}}",
            "json_attributes_topic": f"{here}/answer",
            "availability": [online],
        },
        ("binary_sensor", "surprise"): {
            "name": "Surprise",
            "icon": "mdi:eye-outline",
            "state_topic": f"{here}/surprise",
            "off_delay": _SURPRISED_S,
            "json_attributes_topic": f"{here}/alert",
            "availability": [online, live],
            "availability_mode": "all",
        },
        ("sensor", "state"): {
            "name": "State",
            "device_class": "enum",
            "options": list(STATES),
            "entity_category": "diagnostic",
            "state_topic": f"{here}/state",
            "value_template": "{{ value_json.state }}",
            "json_attributes_topic": f"{here}/state",
            "availability": [online],
        },
        ("text", "ask"): {
            "name": "Ask",
            "icon": "mdi:comment-question-outline",
            "command_topic": f"{here}/ask",
            "availability": [online, live],
            "availability_mode": "all",
        },
    }
    shared = {
        "device": {
            "identifiers": [node],
            "name": camera,
            "manufacturer": "score-edge",
            "model": model,
            "sw_version": __version__,
        },
        "origin": {"name": "score-edge", "sw_version": __version__},
    }
    for (component, entity), config in entities.items():
        yield (
            f"homeassistant/{component}/{node}/{entity}/config",
            {
                "unique_id": f"{node}-{entity}",
                **config,
                **shared,
            },
        )


def _identifier(name: str) -> str:
    """The name in the characters that Home Assistant takes; two names never share one."""
    plain = re.sub(r"[^a-zA-Z0-9_-]", "_", name)
    return plain if plain == name else f"{plain}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"
