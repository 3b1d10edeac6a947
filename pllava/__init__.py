"""PLLaVA: an image-language model taken to video by pooling its frame features (arXiv 2404.16994).

    import pllava
    model, processor = pllava.load("ermu2001/pllava-7b")
    print(pllava.VideoChat(model, processor).watch("clip.mp4").ask("What happens?").text)

Names are imported when first used, so `import pllava` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pllava.model import registration

if TYPE_CHECKING:
    from pllava.chat import VideoChat
    from pllava.chat.caption.dense import dense_caption
    from pllava.model.configuration import PllavaConfig
    from pllava.model.load import load
    from pllava.model.modeling import PllavaForConditionalGeneration
    from pllava.model.processing import PllavaProcessor
    from pllava.video.reader import read_video

_HOME = {
    "dense_caption": "pllava.chat.caption.dense",
    "load": "pllava.model.load",
    "read_video": "pllava.video.reader",
    "VideoChat": "pllava.chat",
    "PllavaConfig": "pllava.model.configuration",
    "PllavaForConditionalGeneration": "pllava.model.modeling",
    "PllavaProcessor": "pllava.model.processing",
}
__all__ = ["PllavaConfig", "PllavaForConditionalGeneration", "PllavaProcessor", "VideoChat", "dense_caption", "load", "read_video"]

registration.when_auto_classes_are_imported()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pllava' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
