"""The only code that imports ray: the stream, the trainer, and the table that they share."""

import os

# Else Ray connects by itself, or starts a cluster, when a thread of it calls something after the session's end.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
