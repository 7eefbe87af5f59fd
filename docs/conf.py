"""How Sphinx builds the documentation."""

from importlib.metadata import version as installed_version

project = "pkengine"
author = "the pkengine contributors"
copyright = f"2026, {author}"
release = installed_version("pkengine")
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.mermaid",
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"pkengine {release}"
exclude_patterns = ["_build"]
