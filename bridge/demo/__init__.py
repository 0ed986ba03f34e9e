"""`isthmus demo`: real servers as child processes, scripted people, and a view of what they say.

The scenario tests use the same servers and the same people.
"""

from __future__ import annotations

FIRST_PORT = 15_200
"""The demo's ports lie at fixed distances from this one."""


async def run(*, once: bool, first_port: int = FIRST_PORT) -> int:
    """Shows the demo; the exit code. `once`: ends after the script, 0 when all has arrived."""
    from bridge.demo.performance import Performance
    from bridge.demo.stage import DemoPorts
    from bridge.demo.view import View

    performance = Performance(once=once, ports=DemoPorts(first=first_port), view=View())
    return await performance.run()
