"""What pyproject.toml can't say: a built package holds the files of pllava/core/shipped.py under pllava/project/."""

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithProject(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # the files are read where they lie
            return
        for pattern in runpy.run_path("pllava/core/shipped.py")["FILES"]:
            for file in sorted(path for path in Path().glob(pattern) if path.is_file()):
                target = Path(self.build_lib, "pllava/project", file)
                self.mkpath(str(target.parent))
                self.copy_file(str(file), str(target))


setup(cmdclass={"build_py": BuildWithProject})
