"""Everything that imports ray: segmentation runs, training, and the preparation of training samples."""

import os

# Otherwise Ray connects, or even starts a cluster, if a thread calls Ray after the end of the session.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
