"""Put hub_configs/ and export/ into the wheel, inside the package; everything else stands in setup.cfg."""

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithData(build_py):
    """build_py that adds the two folders at the top of the checkout, which `packages = find:` cannot see."""

    def finalize_options(self) -> None:
        """Add them to the packages that were found."""
        super().finalize_options()
        self.packages = [*self.packages, "ssia_zoo._hub_configs", "ssia_zoo._export"]


setup(cmdclass={"build_py": BuildWithData})
