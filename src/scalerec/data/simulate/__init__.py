"""A simulator with known truth, for tests and demonstrations."""

from scalerec.data.simulate.events import simulate
from scalerec.data.simulate.result import Simulated
from scalerec.data.simulate.world import SimulatorConfig

__all__ = ["Simulated", "SimulatorConfig", "simulate"]
