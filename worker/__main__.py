"""`python -m worker`: one model over gRPC. The program itself is program.py.

Nearly all of what is imported and loaded stays, so that nobody looks for garbage in it: that would be a tenth of the
start. process.settle begins with it.
"""

import gc
import importlib

gc.disable()
importlib.import_module("worker.program").main()
