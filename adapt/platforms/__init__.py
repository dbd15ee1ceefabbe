"""Where jobs are sent: one file a platform, one row of PLATFORMS, one profile in
`job_specs/platforms/`; and the local stack of real servers.

The platforms' own libraries are imported where they are used, so that a job's image needs none of
them (`requirements-submit.txt`).
"""

from adapt.platforms.platform import Platform

PLATFORMS: dict[str, Platform] = {}
"""By the profile's `platform`."""
