"""Who compiles: helpers, and this process only what they could not."""

import json
import os
import subprocess
import sys

PROGRAM = """
import json, subprocess, sys
from numba.core import event
from worker.kernels import cache_pages, compilation
from worker.kernels.jit import native

@native("i")
def unknown_to_helpers(number):
    pass

class Passes(event.Listener):
    num = 0
    def on_start(self, event): pass
    def on_end(self, event): Passes.num += 1

event.register("numba:run_pass", Passes())
helpers, popen = [], subprocess.Popen
subprocess.Popen = lambda *given, **more: helpers.append(given) or popen(*given, **more)
kernels = [*list(cache_pages.VALUE_CLEARERS.values())[:2], *([unknown_to_helpers] if "unknown" in sys.argv else [])]
said = []
compilation.compile_all(kernels, lambda done, total, name: said.append((done, total, name)))
assert all(kernel.address for kernel in kernels)
print(json.dumps({"passes": Passes.num, "helpers": len(helpers), "said": said, "names": [k.name for k in kernels]}))
"""


def compiled(tmp_path, *arguments):
    environment = os.environ | {"CORRAL_CACHE": str(tmp_path), "CORRAL_ISA": "portable"}
    program = tmp_path / "program.py"  # what numba keeps is named after a file
    program.write_text(PROGRAM)
    command = [sys.executable, "-P", program, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def test_only_helpers_compile_and_the_next_process_needs_none(tmp_path):
    first, second = compiled(tmp_path), compiled(tmp_path)
    assert first["passes"] == second["passes"] == 0
    assert first["helpers"] > 0 == second["helpers"]
    assert {name for _, _, name in first["said"]} == {*first["names"], ""}
    assert first["said"][-1] == second["said"][-1] == [2, 2, ""]


def test_what_no_helper_can_compile_is_compiled_at_the_end(tmp_path):
    found = compiled(tmp_path, "unknown")
    assert found["passes"] > 0
    assert found["said"][-1] == [3, 3, ""]
