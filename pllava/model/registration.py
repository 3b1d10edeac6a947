"""After `import pllava`, transformers' Auto classes know PLLaVA: `AutoModelForImageTextToText.from_pretrained(folder)`.

Importing transformers takes seconds and the CLI must answer at once; so the Auto mappings get an entry that loads our classes only
when somebody looks for them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

# module of an Auto class -> the mapping in it
MAPPINGS = {
    "transformers.models.auto.configuration_auto": "CONFIG_MAPPING",
    "transformers.models.auto.modeling_auto": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "transformers.models.auto.processing_auto": "PROCESSOR_MAPPING",
}
KEYS = ("pllava", "PllavaConfig", "LlavaConfig")  # model type, and names of config classes


def register() -> None:
    """Tell AutoConfig, AutoModelForImageTextToText and AutoProcessor about our classes. Idempotent."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, LlavaConfig, LlavaForConditionalGeneration

    from pllava.model.configuration import PllavaConfig
    from pllava.model.modeling import PllavaForConditionalGeneration
    from pllava.model.processing import PllavaProcessor

    AutoConfig.register("pllava", PllavaConfig, exist_ok=True)
    AutoProcessor.register(PllavaConfig, PllavaProcessor, exist_ok=True)
    AutoModelForImageTextToText.register(PllavaConfig, PllavaForConditionalGeneration, exist_ok=True)
    # Published PLLaVA folders say model_type "llava"; only their `architectures` names the class. The first entry stays the default.
    choices = (LlavaForConditionalGeneration, PllavaForConditionalGeneration)
    AutoModelForImageTextToText._model_mapping.register(LlavaConfig, choices, exist_ok=True)


class _Registrations(dict[Any, Any]):
    """transformers' dict of registered classes, which calls `register` at the first look for ours."""

    pending = True  # one flag for the three mappings: `register` fills them all

    def _register_once(self) -> None:
        if _Registrations.pending:
            _Registrations.pending = False
            register()

    def __contains__(self, key: object) -> bool:
        if key in KEYS or getattr(key, "__name__", None) in KEYS:
            self._register_once()
        return super().__contains__(key)

    def values(self) -> Any:
        self._register_once()
        return super().values()


def when_auto_classes_are_imported() -> None:
    """Prepare the mappings: at once where transformers is imported already, else as soon as it is."""
    for name in MAPPINGS:
        if name in sys.modules:
            _prepare(sys.modules[name])
    sys.meta_path.insert(0, _AutoClassFinder())


def _prepare(module: ModuleType) -> None:
    mapping = getattr(module, MAPPINGS[module.__name__])
    mapping._extra_content = _Registrations(mapping._extra_content)


class _AutoClassFinder(MetaPathFinder):
    """Lets the other finders find the modules of MAPPINGS, and has them prepared once they are executed."""

    delegating = False

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if self.delegating or fullname not in MAPPINGS:
            return None
        self.delegating = True
        try:
            spec = find_spec(fullname)
        finally:
            self.delegating = False
        if spec is not None and spec.loader is not None:
            spec.loader = _PreparingLoader(spec.loader)
        return spec


class _PreparingLoader(Loader):
    def __init__(self, loader: Loader):
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _prepare(module)
