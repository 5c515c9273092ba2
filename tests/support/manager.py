"""A client of the portal's model management, for tests on a real TorchServe."""

import time
from typing import Any

import requests

TOKEN = "a-token-only-of-these-tests-0123456789"


class Manager:
    """What an operator's script does."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {TOKEN}"

    def post(self, path: str, **body: Any) -> requests.Response:
        return self.session.post(f"{self.url}/api/{path}", json=body, timeout=60)

    def job(self, path: str, **body: Any) -> dict[str, Any]:
        """Begin a change; its job at its end."""
        answer = self.post(path, **body)
        assert answer.status_code == 202, answer.text
        return self.end_of(answer.json()["job"]["id"])

    def end_of(self, job: str, seconds: float = 300) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while True:
            answer = self.session.get(f"{self.url}/api/jobs/{job}", timeout=10)
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()["job"]
            if found["state"] != "running":
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.1)

    def done(self, path: str, **body: Any) -> dict[str, Any]:
        """Make a change that succeeds."""
        found = self.job(path, **body)
        assert found["state"] == "done", found
        return found

    def models(self) -> dict[str, Any]:
        answer = self.session.get(f"{self.url}/api/models", timeout=10)
        assert answer.status_code == 200, answer.text
        content: dict[str, Any] = answer.json()
        return content

    def served(self) -> dict[str, dict[str, Any]]:
        """Versions of the baseline, by version."""
        for model in self.models()["models"]:
            if model["model"] == "baseline":
                return {line["version"]: line for line in model["versions"]}
        return {}

    def default(self) -> str:
        (version,) = (name for name, line in self.served().items() if line["default"])
        return version

    def audit(self) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = self.session.get(f"{self.url}/api/audit", timeout=10).json()[
            "audit"
        ]
        return lines
