"""Settings of the book. Sphinx reads them in build/book-source/, where tools/book.py gathers the pages."""

import os
import re
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(os.environ["ICLNB_ROOT"])  # the repository; tools/book.py sets it
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
URLS = PROJECT["urls"]
SITE = {name: "{0.scheme}://{0.netloc}".format(urlsplit(URLS[name])) for name in ("Colab", "Binder")}

project, author, release = "iclnb", "the iclnb authors", PROJECT["version"]
project_copyright = author
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["extra"]

# Pages: notebooks as they were saved, Markdown with formulas. A heading has the anchor that GitHub gives it.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_dmath_double_inline = True
myst_heading_anchors = 3
suppress_warnings = ["toc.empty_glob"]  # a part of the book that is not written yet

# The package guide.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
default_role = "literal"  # `name` in a docstring is code
napoleon_use_rtype = False

# Nothing is fetched by the reader's browser: tools/book.py puts MathJax into _static.
mathjax_path = "mathjax/tex-chtml.js"
html_theme = "sphinx_book_theme"
html_title = "iclnb"
html_favicon = "_static/icon.svg"
html_context = {"default_mode": "auto"}
html_static_path = ["_static"]
html_extra_path = ["extra"]
html_css_files = ["book.css"]
html_js_files = [("explorer.js", {"defer": "defer"})]
html_copy_source = False
html_use_index = html_domain_indices = False  # the search finds the same
html_theme_options = {
    "repository_url": URLS["Repository"],
    "repository_branch": URLS["Colab"].rpartition("/")[2],
    "use_repository_button": True,
    "use_source_button": False,
    "use_download_button": False,
    "launch_buttons": {
        "colab_url": SITE["Colab"],
        "binderhub_url": SITE["Binder"],
        "notebook_interface": "jupyterlab",
    },
    "show_toc_level": 2,
    "navbar_persistent": [],
}


def short_types(app, what, name, thing, options, signature, returns):
    """Names a type without its module, in nested types as well."""
    return tuple(text and re.sub(r"~(?:\w+\.)+", "", text) for text in (signature, returns))


def setup(app):
    app.connect("autodoc-process-signature", short_types)
