"""CoGaze and EGMA as Hugging Face models. Importing this package registers them with the Auto classes."""

import transformers

from . import auto_cogaze, auto_egma
from .auto_cogaze import *  # noqa: F403
from .auto_egma import *  # noqa: F403

for _module, _config in (
    (auto_cogaze, auto_cogaze.CoGazeConfig),
    (auto_cogaze, auto_cogaze.CoGazePrefixConfig),
    (auto_egma, auto_egma.EgmaConfig),
):
    for _auto_class, _name in _config.auto_classes.items():
        if _auto_class == "AutoConfig":
            transformers.AutoConfig.register(_config.model_type, _config)
        else:
            getattr(transformers, _auto_class).register(_config, getattr(_module, _name))

__all__ = []
__all__ += auto_cogaze.__all__
__all__ += auto_egma.__all__
