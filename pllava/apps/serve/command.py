"""Load a model and serve it until interrupted."""

from __future__ import annotations

from collections.abc import Callable

from pllava.apps.serve.settings import ServeSettings
from pllava.chat.model_ref import ModelRef, describe_runtime
from pllava.core.params import Params
from pllava.core.processes import require_free_port
from pllava.registry.default_model import choose


def serve(
    params: Params,
    settings: ServeSettings,
    model: str | None = None,
    adapter: str | None = None,
    template: str | None = None,
    lora_alpha: float | None = None,
    say: Callable[[object], None] = print,
) -> None:
    """Serve until interrupted. Raises PllavaError: no such model, or a port in use."""
    import uvicorn

    require_free_port(settings.host, settings.port, next_step="Take another: pllava serve --host HOST --port PORT")
    source = choose(params, model, adapter, template)
    say(f"model: {source.name}, {source.why}")
    from pllava.apps.serve.server import build_app
    from pllava.apps.web.connections import Connection

    chat = source.load(lora_alpha)
    say(f"runs on {describe_runtime(chat.model)}; template {source.template}")
    names = model_names(source, model, params.registry.model_name)
    say(f"http://{settings.host}:{settings.port}/v1 serves {names[0]}" + ("" if settings.api_key else "; no key is needed"))
    config = uvicorn.Config(
        build_app(chat, names, settings),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        http=Connection,
    )
    uvicorn.Server(config).run()


def model_names(source: ModelRef, requested: str | None, registered: str) -> list[str]:
    """Names that clients may use for the model: the requested name, the registry address, the folder. The server lists the first."""
    names = [requested] if requested else []
    if source.version is not None:
        names.append(f"models:/{registered}/{source.version}")
        if source.name.endswith("(champion)"):
            names.append(f"models:/{registered}@champion")
    elif source.adapter is not None:
        names.append(source.adapter)
    else:
        names.append(source.base)
    return list(dict.fromkeys([*names, source.name]))
