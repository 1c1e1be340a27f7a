"""Serve the page: offline, without telemetry, on loopback unless another address is given."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssia_zoo.app.catalog import Catalog, make_catalog
from ssia_zoo.app.config import AppConfig
from ssia_zoo.app.content import css
from ssia_zoo.app.examples import write_examples
from ssia_zoo.errors import ConfigError
from ssia_zoo.extras import require_packages


def serve(config: AppConfig) -> None:
    """Serve the page until the process is stopped; print its address.

    Raises:
        ConfigError: If Gradio is missing, or the address is in use.
        SSIAZooError: If a model cannot be loaded.
        SystemExit: On SIGTERM and SIGHUP, if the caller does not handle SIGTERM, after the pictures are removed.
    """
    require_packages("the page", ["gradio", "matplotlib"], "'ssia-zoo[app]'")
    with (
        _signals_raise(),
        _listen(config) as listener,
        tempfile.TemporaryDirectory(prefix="ssia-zoo-app-") as temporary,
    ):
        uploads, examples = Path(temporary, "uploads"), Path(temporary, "examples")  # Gradio empties its own folder
        for folder in (uploads, examples):
            folder.mkdir()
        # Read by Gradio when it is imported and when it gets a file.
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=str(uploads), HF_HUB_DISABLE_TELEMETRY="1")
        catalog = make_catalog(config)
        _run(config, catalog, listener, examples)


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Let SIGTERM raise SystemExit, unless it is handled, and SIGHUP (the terminal was closed) act as SIGTERM."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    handlers = {signal.SIGTERM: stop}
    if hasattr(signal, "SIGHUP"):  # not on Windows
        handlers[signal.SIGHUP] = lambda *_: signal.raise_signal(signal.SIGTERM)
    main = threading.current_thread() is threading.main_thread()  # Python handles signals there
    changed = [number for number in handlers if main and signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, handlers[number])
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


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
    """Serve until a signal stops it; `folder` receives the examples."""
    import fastapi
    import gradio
    import uvicorn
    from fastapi.middleware.trustedhost import TrustedHostMiddleware
    from fastapi.responses import FileResponse

    from ssia_zoo.app.page import make_page

    app = fastapi.FastAPI(openapi_url=None)
    reports = catalog.reports

    def report(index: int) -> FileResponse:
        if not 0 <= index < len(reports):
            raise fastapi.HTTPException(404)
        return FileResponse(reports[index].path, media_type="text/html")

    app.add_api_route("/reports/{index}", report, response_model=None)
    if config.loopback:  # else another site could read the page, by a name that it resolves to this machine
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", config.host])
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
    page.has_launched = True  # mounting does not set it; without it Gradio takes the path of any file as an upload
    host, port = listener.getsockname()[:2]
    print(f"SSIA Zoo: http://{f'[{host}]' if ':' in host else host}:{port} (stop with Ctrl-C)", flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    server.run(sockets=[listener])
