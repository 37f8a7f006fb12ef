"""What pyproject.toml cannot say: kernels are compiled ahead into a wheel, so that the first run need not."""

from __future__ import annotations

import os
import subprocess
import sys

from setuptools import setup
from setuptools.command.build_py import build_py


class _Build(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # kernels change, and are compiled when they are used
            return
        command = [sys.executable, "-m", "requant.kernels_cpu.compile_ahead"]
        # what is left in the folder is packed: no bytecode of the compiler's own run
        where = {"PYTHONPATH": os.path.abspath(self.build_lib), "PYTHONDONTWRITEBYTECODE": "1"}  # noqa: PTH100
        environment = {**os.environ, **where}
        if subprocess.run(command, env=environment, cwd=self.build_lib).returncode:
            print("kernels are not compiled ahead: the first run will compile them", file=sys.stderr)


setup(cmdclass={"build_py": _Build})
