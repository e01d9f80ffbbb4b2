"""The API's model, for tests of a whole server."""

from tests.app.api.conftest import model_dir

__all__ = ["model_dir"]
