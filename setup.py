"""Build script; the metadata is in setup.cfg."""

from setuptools import find_namespace_packages, setup

setup(
    # Plugins go into Twisted's own folder for them, which is no package of ours.
    packages=[*find_namespace_packages("src"), "twisted.plugins"],
)
