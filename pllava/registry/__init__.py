"""The model registry: versions, their measurements, and the alias `champion`. MLflow is imported on first use."""

from pllava.registry.gate import GateResult, gate
from pllava.registry.promote import promote, rollback
from pllava.registry.register import register
from pllava.registry.resolve import resolve

__all__ = ["GateResult", "gate", "promote", "register", "resolve", "rollback"]
