"""After `import pllava`, transformers' Auto classes know PLLaVA: `AutoModelForImageTextToText.from_pretrained(folder)`.

The import of transformers takes seconds, and the CLI must answer at once. Therefore our classes are registered only when an Auto class
looks for them: an import hook replaces the dict of extra classes in each Auto mapping.
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
    """Register our classes with AutoConfig, AutoModelForImageTextToText and AutoProcessor. Idempotent."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, LlavaConfig, LlavaForConditionalGeneration

    from pllava.model.configuration import PllavaConfig
    from pllava.model.modeling import PllavaForConditionalGeneration
    from pllava.model.processing import PllavaProcessor

    AutoConfig.register("pllava", PllavaConfig, exist_ok=True)
    AutoProcessor.register(PllavaConfig, PllavaProcessor, exist_ok=True)
    AutoModelForImageTextToText.register(PllavaConfig, PllavaForConditionalGeneration, exist_ok=True)
    # Published PLLaVA folders have model_type "llava", and `architectures` names the class. The first class of `choices` is the default.
    choices = (LlavaForConditionalGeneration, PllavaForConditionalGeneration)
    AutoModelForImageTextToText._model_mapping.register(LlavaConfig, choices, exist_ok=True)


class _Registrations(dict[Any, Any]):
    """transformers' dict of registered classes. The first lookup of ours calls `register`."""

    pending = True  # shared by the three mappings, because one `register` fills all of them

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
    """Prepare the mappings now if transformers is imported already, and otherwise as soon as it is imported."""
    for name in MAPPINGS:
        if name in sys.modules:
            _prepare(sys.modules[name])
    sys.meta_path.insert(0, _AutoClassFinder())


def _prepare(module: ModuleType) -> None:
    mapping = getattr(module, MAPPINGS[module.__name__])
    mapping._extra_content = _Registrations(mapping._extra_content)


class _AutoClassFinder(MetaPathFinder):
    """Finds the modules of MAPPINGS through the other finders. Each module is prepared after its execution."""

    delegating = False  # while the other finders search, this finder finds nothing

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
