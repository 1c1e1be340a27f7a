"""Serve the page: offline, without telemetry, on loopback unless another address is given."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from pathlib import Path

from ssia_zoo.app.catalog import Catalog, make_catalog
from ssia_zoo.app.config import AppConfig
from ssia_zoo.app.content import css
from ssia_zoo.app.examples import write_examples
from ssia_zoo.errors import ConfigError
from ssia_zoo.extras import require_packages

_log = logging.getLogger(__name__)


def serve(config: AppConfig) -> None:
    """Serve the page until the process is stopped; print its address.

    Raises:
        ConfigError: If Gradio is missing, or the address is in use.
        SSIAZooError: If a model cannot be loaded.
    """
    require_packages("the page", ["gradio", "matplotlib"], "'ssia-zoo[app]'")
    with _listen(config) as listener, tempfile.TemporaryDirectory(prefix="ssia-zoo-app-") as temporary:
        # Read by Gradio when it is imported and when it gets a file.
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=temporary, HF_HUB_DISABLE_TELEMETRY="1")
        catalog = make_catalog(config)
        _run(config, catalog, listener, Path(temporary))


def _listen(config: AppConfig) -> socket.socket:
    """Open the socket first: an address in use is then one line, and no model is loaded in vain."""
    try:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        return socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {config.host}, port {config.port} ({error.strerror or error}); set `port` to another "
            "one, or to 0 for any free one"
        ) from error


def _run(config: AppConfig, catalog: Catalog, listener: socket.socket, folder: Path) -> None:
    import fastapi
    import gradio
    import uvicorn
    from fastapi.responses import FileResponse

    from ssia_zoo.app.page import make_page

    app = fastapi.FastAPI(openapi_url=None)
    reports = catalog.reports

    def report(index: int) -> FileResponse:
        if not 0 <= index < len(reports):
            raise fastapi.HTTPException(404)
        return FileResponse(reports[index].path, media_type="text/html")

    app.add_api_route("/reports/{index}", report, response_model=None)
    page = make_page(catalog, write_examples(folder, catalog.names), config)
    gradio.mount_gradio_app(
        app,
        page,
        path="/",
        allowed_paths=[str(folder)],
        theme=gradio.themes.Default(primary_hue="teal", font="sans-serif", font_mono="monospace"),
        css=css(),
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=config.max_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
    )
    host, port = listener.getsockname()[:2]
    print(f"SSIA Zoo: http://{f'[{host}]' if ':' in host else host}:{port} (stop with Ctrl-C)", flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    server.run(sockets=[listener])
