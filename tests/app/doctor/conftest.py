"""The server of the API's tests."""

from tests.app.api.conftest import live, model_dir

__all__ = ["live", "model_dir"]
