"""LiteLLM's proxy, with workers that speak OpenAI's API over HTTP."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import ClassVar

from benchmarks.systems.system import MODEL, System


class LiteLlm(System):
    """Static workers, one process, two retries."""

    name: ClassVar[str] = "LiteLLM"
    environment: ClassVar[str] = ".venv-litellm"
    worker_script: ClassVar[str] = "openai_http.py"
    health_path: ClassVar[str] = "/health/liveliness"

    def gateway_command(self, place: int) -> Sequence[str]:
        """See System."""
        config = self.folder / "litellm.json"  # JSON is YAML
        config.write_text(json.dumps(self._config()))
        port = str(self.ports[place])
        return [
            *(self.binary("litellm"), "--config", str(config)),
            *("--host", "127.0.0.1", "--port", port, "--num_workers", "1"),
        ]

    def gateway_env(self) -> Mapping[str, str]:
        """See System. It asks the network for prices, and refuses to serve without a key, unless told so."""
        return {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }

    def _config(self) -> dict[str, object]:
        deployments = [
            {
                "model_name": MODEL,
                "litellm_params": {
                    "model": f"openai/{MODEL}",
                    "api_base": f"http://127.0.0.1:{self.reached(place)}/v1",
                    "api_key": "none",
                },
            }
            for place in range(len(self.setup.workers))
        ]
        return {
            "model_list": deployments,
            "router_settings": {"routing_strategy": "simple-shuffle", "num_retries": 2},
            "general_settings": {"disable_spend_logs": True},
            "litellm_settings": {"telemetry": False},
        }
