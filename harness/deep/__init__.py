"""Track 3: deep networks under linear probing and fine-tuning. The public face for authors of this track's plugins.

The stub `__init__.pyi` lists the names. They are imported, with torch, at first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
