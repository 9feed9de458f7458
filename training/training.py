"""What a command finds under the package's name when it is run as a file (`accelerate launch training/pretrain.py`).

Python then looks for imports beside the file first, and so finds this module: it puts the folder of the package there
instead, and the package in its own place. Thereby a file needs nothing but `from training...`, installed or not, and
`evaluate.py` does not stand in for the library of that name.
"""

import importlib
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _HERE]
sys.path.insert(0, str(_HERE.parent))
del sys.modules["training"]
try:
    importlib.import_module("training")
except ImportError as error:
    sys.exit(str(error))
