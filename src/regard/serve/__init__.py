"""Web page and REST API for captioners. Needs the extra `serve`."""

from regard.serve.app import create_app
from regard.serve.settings import Settings

__all__ = ["Settings", "create_app"]
