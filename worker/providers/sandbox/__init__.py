"""The built-in provider: no model, but a real HTTP server on loopback that speaks OpenAI's wire form.

It answers deterministically, and misbehaves on request by the model's name, so that an integration can be tested
against every way a provider fails. Every answer and every error names itself: its text begins with `[sandbox] `.
"""

from __future__ import annotations

from worker.providers.sandbox.models import MODELS
from worker.providers.sandbox.server import Sandbox, SandboxThread

__all__ = ["MODELS", "Sandbox", "SandboxThread"]
