"""Which release of Laconic is this?

The distribution is `laconic-gateway`: on PyPI, `laconic` is somebody else's.
"""

from importlib import metadata

VERSION = metadata.version("laconic-gateway")
