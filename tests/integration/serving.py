"""A clip to ask about, an adapter that answers like no other, and a visitor of the demo who never stops asking."""

import shutil
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def write_clip(path: Path, step: int = 20) -> None:
    """12 frames of 64 px that get brighter by `step`."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), step * index, np.uint8), format="rgb24")))
        container.mux(stream.encode())


def write_adapter(base: Path, folder: Path, seed: int, config: dict, alpha: int = 4, **load) -> str:
    """An adapter whose every weight is random, so that its answers are its own; its adapter_sha256."""
    import torch

    import pllava
    from pllava.core.params import Lora
    from pllava.model.adapter import add_lora, save_adapter

    shutil.rmtree(folder, ignore_errors=True)
    model, _ = pllava.load(base, dtype="float32", device="cpu", **load)
    adapted = add_lora(model, Lora(r=4, alpha=alpha, dropout=0.0), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0.0, 0.5, generator=generator)
    return save_adapter(adapted, folder, config)["adapter_sha256"]


class Visitor(threading.Thread):
    """Asks all the time, as a client does, and keeps what came back and what went wrong."""

    def __init__(self, url: str, clip: str):
        super().__init__(daemon=True)
        self.url, self.clip, self.leave = url, clip, threading.Event()
        self.versions: list[int] = []
        self.answers: list[str] = []
        self.problems: list[str] = []

    def run(self) -> None:
        from gradio_client import Client, handle_file

        client = Client(self.url, verbose=False, httpx_kwargs={"trust_env": False}, analytics_enabled=False)
        while not self.leave.wait(0.3):  # more would take the processor from the services
            try:
                self.answers.append(client.predict(handle_file(self.clip), "Which way?", api_name="/ask"))
                self.versions.append(client.predict(api_name="/version")["version"])
                with OPENER.open(self.url, timeout=30) as page:
                    assert page.status == 200
            except Exception as error:
                self.problems.append(f"{type(error).__name__}: {error}")

    def __enter__(self) -> "Visitor":
        self.start()
        while not self.versions and not self.problems:
            time.sleep(0.1)
        return self

    def __exit__(self, *exception: object) -> None:
        self.leave.set()
        self.join(60)
