"""How the eviction of a machine's pod becomes a move: annotations on the pod, by which API server and controller agree.

A machine's pod says that it is moved instead of deleted. The API server refuses its eviction for now (429), which every
client that drains a node takes as "ask again", and notes the time. The controller moves the machine while the last time
is recent: who stops asking has changed their mind.
"""

from datetime import timedelta

from controller.api.resource import GROUP

STRATEGY_ANNOTATION = f"{GROUP}/eviction"
MOVE = "Move"
REQUESTED_ANNOTATION = f"{GROUP}/eviction-requested"
"""When the eviction was asked for last, RFC 3339."""
RECENT = timedelta(seconds=60)
"""Clients ask every 5 seconds."""
